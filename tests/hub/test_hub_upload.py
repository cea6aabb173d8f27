"""Uploading a folder: nothing private leaves, and a repository is as it was or as it should be."""

import io
import json
import math
import os

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image, PngImagePlugin
from safetensors.numpy import save_file

from hf_kcd.hub import check_folder, upload, without_folders


@pytest.fixture
def folder(tmp_path):
    """Files of every kind that is uploaded."""
    folder = tmp_path / "repository"
    (folder / "plots").mkdir(parents=True)
    (folder / "README.md").write_text(
        "---\ntags: [hf_kcd]\n---\n# A card\n[a picture](plots/a.png), https://huggingface.co/me/x, 3/4 of it"
    )
    (folder / "config.json").write_text('{"share": "1/2", "address": "https://example.org/a/b"}')
    (folder / "recipe.yaml").write_text("output_dir: runs/first\n")
    save_file({"weights": np.ones(5000, np.float32)}, folder / "model.safetensors", {"format": "pt"})
    pyarrow.parquet.write_table(pyarrow.table({"point": [1, 2]}), folder / "points.parquet")
    Image.new("RGB", (3, 3)).save(folder / "plots" / "a.png")
    return folder


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_upload_is_one_commit_that_removes_our_old_files_and_nobody_elses(hub, folder):
    assert dict(check_folder(folder)) == {name: len(content) for name, content in contents(folder).items()}
    commit = upload(folder, "me/things", commit_message="First")
    assert hub.files("me/things") == contents(folder)
    newest, initial = hub.commits("me/things")
    assert newest.sha == commit.oid != initial.sha
    hub.put("me/things", {"notes.md": b"mine", "plots.txt": b"mine"})
    (folder / "plots" / "a.png").rename(folder / "plots" / "b.png")
    (folder / "recipe.yaml").unlink()
    upload(folder, "me/things", commit_message="Second")
    assert hub.files("me/things") == {**contents(folder), "notes.md": b"mine", "plots.txt": b"mine"}


def test_somebody_elses_files_are_written_over_only_on_request(hub, folder):
    for files in ({"README.md": b"---\ntags: [other]\n---\n"}, {"model.safetensors": b"mine"}, {"README.md": b"mine"}):
        hub.put("me/other", files)
        before = hub.commits("me/other")
        with pytest.raises(ValueError, match=r"me/other holds files that hf_kcd did not write \(.*overwrite"):
            upload(folder, "me/other", commit_message="First")
        assert hub.commits("me/other") == before
    upload(folder, "me/other", overwrite=True, commit_message="First")
    assert hub.files("me/other") == contents(folder)
    upload(folder, "me/other", commit_message="Second")
    # A repository made on the Hub's page is empty.
    hub.put("me/fresh", {".gitattributes": b"*.safetensors filter=lfs"})
    upload(folder, "me/fresh", commit_message="First")


def test_a_public_repository_is_not_taken_for_a_private_one(hub, folder):
    upload(folder, "me/things", commit_message="First")
    with pytest.raises(ValueError, match="me/things exists and is public"):
        upload(folder, "me/things", private=True, commit_message="Second")
    assert len(hub.commits("me/things")) == 2
    upload(folder, "me/hidden", private=True, commit_message="First")
    upload(folder, "me/hidden", private=True, commit_message="Second")
    assert hub.repository("me/hidden").private


BREAKS = {"PUT": ["drop_upload", "status"], "preupload": ["drop", "status"], "objects/batch": ["drop"]}
BREAKS |= {"commit/main": ["drop", "drop_upload", "status"]}


@pytest.mark.parametrize("request_, kind", [(request, kind) for request, kinds in BREAKS.items() for kind in kinds])
def test_an_upload_that_breaks_off_changes_nothing_and_works_when_tried_again(hub, folder, waits, request_, kind):
    upload(folder, "me/things", commit_message="First")
    before = hub.commits("me/things")
    save_file({"weights": np.full(5000, 2, np.float32)}, folder / "model.safetensors", {"format": "pt"})
    hub.fail(request_, kind, times=math.inf, after=100)
    with pytest.raises(ConnectionError, match="model repository 'me/things' could not be written to") as error:
        upload(folder, "me/things", commit_message="Second")
    assert "\n" not in str(error.value) and hub.commits("me/things") == before
    hub.mend()
    upload(folder, "me/things", commit_message="Second")
    assert hub.files("me/things") == contents(folder)


@pytest.mark.parametrize("request_", ["POST /api/repos/create", "POST .*/branch/", "POST .*/commit/"])
@pytest.mark.parametrize(
    ("kind", "details", "waited"),
    [
        ("status", {"status": 503}, 1.0),
        ("status", {"status": 412}, 1.0),  # somebody else's commit came first
        ("status", {"status": 429, "retry_after": 7}, 7.0),
        ("status", {"status": 429, "retry_after": 86_400}, 300.0),
        ("drop", {}, 1.0),
        ("lost", {}, 1.0),
    ],
)
def test_a_short_failure_of_any_request_is_waited_out(hub, folder, waits, request_, kind, details, waited):
    hub.fail(request_, kind, **details)
    # huggingface_hub itself repeats these requests; how long it waits depends on its version.
    for other in ("PUT", "preupload", "objects/batch") if "retry_after" in details else ():
        hub.fail(other, "status", status=429, retry_after=5)
    upload(folder, "me/things", private=True, revision="trial", commit_message="First")
    assert hub.repository("me/things").private and hub.files("me/things") == {}
    assert hub.files("me/things", revision="trial") == contents(folder)
    assert [commit.title for commit in hub.commits("me/things", revision="trial")] == ["First", "initial commit"]
    assert waited in waits and ("retry_after" in details or waits == [waited])


def test_errors_of_rights_say_what_to_do(hub, folder, monkeypatch):
    theirs = {"README.md": b"---\ntags: [hf_kcd]\n---\nyours"}
    hub.put("you/things", theirs)
    with pytest.raises(PermissionError, match="'you/things' may not be written to with this login"):
        upload(folder, "you/things", commit_message="First")
    monkeypatch.setenv("HF_TOKEN", hub.token("me", write=False))
    with pytest.raises(PermissionError, match="use a token with that right"):
        upload(folder, "me/things", commit_message="First")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PermissionError, match="hf auth login"):
        upload(folder, "me/things", commit_message="First")
    assert hub.files("you/things") == theirs


# What is checked before anything is sent.

TOKEN = "hf_" + "a1B2" * 9
# Made up, each of the form that its service gives.
TOKENS = [
    "AKIA" + "Z7" * 8,
    "glpat-" + "a1B2" * 5,
    "xoxb-" + "1234567890-" * 2 + "abcdefabcdef",
    "AIza" + "Sy" + "a1B" * 11,
]
TOKENS += ["-----BEGIN OPENSSH PRIVATE KEY-----", "https://" + "a1B2" * 5 + "@github.com/me/x", "npm_" + "a1B2" * 9]
TOKENS += ["SG." + "a1" * 11 + "." + "b2C" * 14 + "d", "sk_live_" + "a1B2" * 6, "pypi-AgEIcHlwaS5vcmc" + "a1B2" * 20]


def picture(text: str) -> bytes:
    info, stream = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_text("Comment", text)
    Image.new("RGB", (2, 2)).save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


def tensors(path: str) -> bytes:
    header = json.dumps({"__metadata__": {"path": path}}).encode()
    return len(header).to_bytes(8, "little") + header


def table(text: str) -> bytes:
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}).replace_schema_metadata({"about": text}), stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("training_args.bin", b"\x80\x02}q\x00.", "training_args.bin is not of a kind that is uploaded"),
        ("optimizer.pt", b"PK", "optimizer.pt is not of a kind"),
        (".env", b"HF_TOKEN=x", "not of a kind"),
        ("config.json", json.dumps({"hub_token": TOKEN}).encode(), "config.json holds a token"),
        ("recipe.yaml", b"run_name: ghp_" + b"x" * 36, "recipe.yaml holds a token"),
        ("recipe.yaml", b"run_name: github_pat_" + b"x1" * 20, "recipe.yaml holds a token"),
        ("recipe.yaml", b"project: sk-proj-" + b"x1" * 20, "recipe.yaml holds a token"),
        ("README.md", b"from https://me:secret@example.org/x", "README.md holds a token"),
        ("README.md", b"set HF_TOKEN=the-login-itself", "README.md holds a token"),
        ("README.md", b"a secret of the environment: correct-horse-9", "README.md holds a token"),
        *(("recipe.yaml", f"run_name: {token}".encode(), "recipe.yaml holds a token") for token in TOKENS),
        ("README.md", b"made in /home/me/runs/first today", "README.md holds '/home/me/runs/first', a folder"),
        ("README.md", b"<a href=x>|/home/me|</a>", "README.md holds '/home/me'"),
        ("results.json", b'{"command": "hf-kcd --data_dir=/raid/data/c"}', "holds '/raid/data/c'"),
        ("recipe.yaml", b"output_dir: C:\\Users\\me\\runs", "recipe.yaml holds 'C:"),
        ("recipe.yaml", b"data_dir: file:///srv/x", "recipe.yaml holds 'file:///srv/x'"),
        ("plots/b.png", b"\x89PNG cut short", "b.png is not a whole picture"),
        ("plots/b.png", picture(TOKEN), "plots/b.png holds a token"),
        ("plots/b.png", picture("/home/me/x.png"), "plots/b.png holds '/home/me/x.png'"),
        ("model.safetensors", b"cut", "model.safetensors is not a whole safetensors file"),
        ("model.safetensors", tensors("/home/me/model"), "model.safetensors holds '/home/me/model'"),
        ("points.parquet", table(TOKEN), "points.parquet holds a token"),
        ("plots/link.png", None, "plots/link.png is a link"),
    ],
)
def test_private_files_are_refused_before_anything_is_sent(hub, folder, monkeypatch, name, content, words):
    monkeypatch.setenv("HF_TOKEN", "the-login-itself")
    monkeypatch.setenv("SERVICE_API_KEY", "correct-horse-9")
    if content is None:
        os.symlink("/etc/passwd", folder / name)
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        upload(folder, "me/things", commit_message="First")
    with pytest.raises(FileNotFoundError, match="holds no files"):
        upload(folder / "nowhere", "me/things", commit_message="First")
    assert hub.requests == []


def test_texts_that_only_look_like_a_path_or_a_token_are_uploaded(folder):
    for words in (
        "and/or",
        "a / b",
        "n/a",
        "/m/01g317",
        "1/2 or (3/4)",
        r"$\frac{a}{b}/c$ and \alpha:\beta",
        "https://example.org/home/me/x and //example.org/tmp/x",
        "uoft-cs/cifar100",
        "[curves](plots/curves.png)",
        "~/runs and ./x/y and ../z",
        "km/h, [/a], {/b}, </details>",
        "task-specific-sk-learning, hf_hub:me/x, hf_kcd",
        "at 12:30:45@noon, mail:me@example.org",
    ):
        (folder / "README.md").write_text(words)
        (folder / "config.json").write_text(json.dumps({"label_names": [words, "other"]}))
        check_folder(folder)


@pytest.mark.parametrize(
    ("value", "published"),
    [
        ("/home/me/runs/first", "first"),
        ("/home/me/runs/first/", "first"),
        ("../shared/data/cifar100", "cifar100"),
        ("./x.pth", "x.pth"),
        ("~/x.pth", "x.pth"),
        ("C:\\Users\\me\\x.pth", "x.pth"),
        ("local-dir:/srv/teacher", "teacher"),
        ("runs/../../me/x", "x"),
        ("/", "."),
        ("recipes/cifar100/kd.yaml", "recipes/cifar100/kd.yaml"),
        ("hf_hub:me/x", "hf_hub:me/x"),
        ("resnet34.a1_in1k", "resnet34.a1_in1k"),
        (0.5, 0.5),
        (["/a/b", {"mask": "/c/d"}], ["b", {"mask": "d"}]),
        (
            {"command": "/opt/bin/torchrun x.py --output_dir=/me/run --teacher '/my runs/t' --seed 0"},
            {"command": "torchrun x.py --output_dir=run --teacher t --seed 0"},
        ),
        ({"command": "cut 'short"}, {"command": None}),
        ("me@host:/home/me/x and /raid/me/y", "me@host:x and y"),
        ("by C:\\Users\\me\\x.pth", "by x.pth"),
        ("of /m/01g317 and/or, https://example.org/home/x", "of /m/01g317 and/or, https://example.org/home/x"),
        ({"command": """x '--options={"a": "/home/me/b"}'"""}, {"command": """x '--options={"a": "b"}'"""}),
    ],
)
def test_a_published_path_is_its_last_component(value, published):
    assert without_folders(value) == published
