"""Uploading a folder: nothing leaves that should not, and a repository is as it was or as it should be."""

import io
import json
import math
import os

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hub.local_hub import LocalHub
from PIL import Image, PngImagePlugin
from safetensors.numpy import save_file

from hf_kcd.hub import check_folder, upload


@pytest.fixture
def folder(tmp_path):
    """Files of every kind that is uploaded."""
    folder = tmp_path / "repository"
    (folder / "plots").mkdir(parents=True)
    (folder / "README.md").write_text("# A card\n[a picture](plots/a.png), https://huggingface.co/me/x, 3/4 of it")
    (folder / "config.json").write_text('{"share": "1/2", "address": "https://example.org/a/b"}')
    (folder / "recipe.yaml").write_text("output_dir: runs/first\n")
    save_file({"weights": np.ones(5000, np.float32)}, folder / "model.safetensors", {"format": "pt"})
    pyarrow.parquet.write_table(pyarrow.table({"point": [1, 2]}), folder / "points.parquet")
    Image.new("RGB", (3, 3)).save(folder / "plots" / "a.png")
    return folder


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_repository_holds_the_folder_after_one_commit(hub: LocalHub, folder):
    commit = upload(folder, "me/things", commit_message="First")
    assert hub.files("me/things") == contents(folder)
    newest, initial = hub.commits("me/things")
    assert newest.sha == commit.oid != initial.sha


def test_a_later_upload_removes_what_an_earlier_one_left_and_no_file_of_other_people(hub, folder):
    upload(folder, "me/things", commit_message="First")
    hub.put("me/things", {"notes.md": b"mine", "plots.txt": b"mine"})
    (folder / "plots" / "a.png").rename(folder / "plots" / "b.png")
    (folder / "recipe.yaml").unlink()
    upload(folder, "me/things", commit_message="Second")
    assert hub.files("me/things") == {**contents(folder), "notes.md": b"mine", "plots.txt": b"mine"}


def test_private_repositories_and_branches(hub, folder):
    upload(folder, "me/things", private=True, revision="trial", commit_message="First")
    assert hub.repository("me/things").private
    assert hub.files("me/things", revision="trial") == contents(folder) and hub.files("me/things") == {}


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        ("PUT", "drop_upload"),
        ("PUT", "status"),
        ("preupload", "status"),
        ("preupload", "drop"),
        ("objects/batch", "drop"),
        ("commit/main", "status"),
        ("commit/main", "drop_upload"),
        ("commit/main", "drop"),
    ],
)
def test_an_upload_that_breaks_off_leaves_the_repository_as_it_was_and_works_when_tried_again(
    hub, folder, waits, request_, kind
):
    upload(folder, "me/things", commit_message="First")
    before, files = [one.sha for one in hub.commits("me/things")], hub.files("me/things")
    save_file({"weights": np.full(5000, 2, np.float32)}, folder / "model.safetensors", {"format": "pt"})
    hub.fail(request_, kind, times=math.inf, after=100)
    with pytest.raises(ConnectionError, match="model repository 'me/things' could not be written to") as error:
        upload(folder, "me/things", commit_message="Second")
    assert "\n" not in str(error.value)
    assert [one.sha for one in hub.commits("me/things")] == before and hub.files("me/things") == files
    hub.mend()
    upload(folder, "me/things", commit_message="Second")
    assert hub.files("me/things") == contents(folder)


def test_a_commit_whose_answer_is_lost_is_made_once(hub, folder, waits):
    hub.fail("commit/main", "lost")
    commit = upload(folder, "me/things", commit_message="First")
    assert hub.files("me/things") == contents(folder)
    assert [one.sha for one in hub.commits("me/things")[:-1]] == [commit.oid]


@pytest.mark.parametrize("request_", ["PUT", "preupload", "objects/batch", "commit/main"])
def test_a_hub_that_asks_to_wait_is_waited_for(hub, folder, waits, request_):
    upload(folder, "me/things", commit_message="First")
    save_file({"weights": np.full(5000, 2, np.float32)}, folder / "model.safetensors", {"format": "pt"})
    hub.fail(request_, "status", times=1, status=429, retry_after=7)
    upload(folder, "me/things", commit_message="Second")
    assert hub.files("me/things") == contents(folder)
    # How long the other requests wait is huggingface_hub's matter, whose older versions do not read what was asked.
    assert waits and (request_ != "commit/main" or 7 in waits)


def test_who_may_not_write_is_told_so(hub, folder, monkeypatch):
    hub.put("you/things", {"README.md": b"yours"})
    with pytest.raises(PermissionError, match="'you/things' may not be written to with this login"):
        upload(folder, "you/things", commit_message="First")
    monkeypatch.setenv("HF_TOKEN", hub.token("me", write=False))
    with pytest.raises(PermissionError, match="use a token with that right"):
        upload(folder, "me/things", commit_message="First")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PermissionError, match="hf auth login"):
        upload(folder, "me/things", commit_message="First")
    assert hub.files("you/things") == {"README.md": b"yours"}


@pytest.mark.parametrize("request_", ["POST /api/repos/create", "POST .*/branch/", "POST .*/commit/"])
@pytest.mark.parametrize(
    ("kind", "details"),
    [("status", {"status": 503}), ("status", {"status": 429, "retry_after": 7}), ("drop", {}), ("lost", {})],
)
def test_a_moment_of_failure_of_any_request_is_waited_out(hub, folder, waits, request_, kind, details):
    hub.fail(request_, kind, **details)
    upload(folder, "me/things", revision="trial", commit_message="First")
    assert hub.files("me/things", revision="trial") == contents(folder)
    assert [commit.title for commit in hub.commits("me/things", revision="trial")] == ["First", "initial commit"]
    assert waits == [7.0 if "retry_after" in details else 1.0]


def test_nobody_waits_for_hours_because_a_server_says_so(hub, folder, waits):
    hub.fail("POST .*/commit/", "status", status=429, retry_after=86_400)
    upload(folder, "me/things", commit_message="First")
    assert waits == [300.0] and hub.files("me/things") == contents(folder)


def test_a_commit_that_meets_somebody_elses_is_made_after_it(hub, folder, waits):
    upload(folder, "me/things", commit_message="First")
    hub.fail("POST .*/commit/", "status", status=412)
    (folder / "recipe.yaml").unlink()
    upload(folder, "me/things", commit_message="Second")
    assert hub.files("me/things") == contents(folder)


# What is looked at before anything is sent.

TOKEN = "hf_" + "a1B2" * 9


def picture(text: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", text)
    stream = io.BytesIO()
    Image.new("RGB", (2, 2)).save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("training_args.bin", b"\x80\x02}q\x00.", "training_args.bin is not of a kind that is uploaded"),
        ("optimizer.pt", b"PK", "optimizer.pt is not of a kind"),
        (".env", b"HF_TOKEN=x", "not of a kind"),
        ("config.json", json.dumps({"hub_token": TOKEN}).encode(), "config.json holds a token"),
        ("recipe.yaml", b"run_name: ghp_" + b"x" * 36, "recipe.yaml holds a token"),
        ("README.md", b"made in /home/me/runs/first today", "README.md holds '/home/me/runs/first', a folder"),
        ("results.json", b'{"command": "hf-kcd --data_dir=/raid/data/c"}', "holds '/raid/data/c'"),
        ("recipe.yaml", b"output_dir: C:\\Users\\me\\runs", "recipe.yaml holds 'C:"),
        ("recipe.yaml", b"data_dir: file:///srv/x", "recipe.yaml holds 'file:///srv/x'"),
        ("recipe.yaml", b"run_name: github_pat_" + b"x1" * 20, "recipe.yaml holds a token"),
        ("recipe.yaml", b"project: sk-proj-" + b"x1" * 20, "recipe.yaml holds a token"),
        ("README.md", b"from https://me:secret@example.org/x", "README.md holds a token"),
        ("README.md", b"<a href=x>|/home/me|</a>", "README.md holds '/home/me'"),
        ("plots/b.png", b"\x89PNG cut short", "b.png is no whole picture"),
        ("plots/b.png", picture(TOKEN), "plots/b.png holds a token"),
        ("plots/b.png", picture("/home/me/x.png"), "plots/b.png holds '/home/me/x.png'"),
    ],
)
def test_what_should_not_leave_is_refused_before_anything_is_sent(hub, folder, name, content, words):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        upload(folder, "me/things", commit_message="First")
    assert hub.requests == []


@pytest.mark.parametrize(
    "words",
    [
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
    ],
)
def test_what_only_looks_like_a_path_or_a_token_is_no_reason_to_refuse(folder, words):
    (folder / "README.md").write_text(words)
    (folder / "config.json").write_text(json.dumps({"label_names": [words, "other"]}))
    check_folder(folder)


def test_metadata_of_tensors_and_tables_is_read(folder):
    save_file({"a": np.ones(2)}, folder / "model.safetensors", {"path": "/home/me/model"})
    with pytest.raises(ValueError, match="model.safetensors holds '/home/me/model'"):
        check_folder(folder)
    save_file({"a": np.ones(2)}, folder / "model.safetensors")
    table = pyarrow.table({"point": [1]}).replace_schema_metadata({"token": TOKEN})
    pyarrow.parquet.write_table(table, folder / "points.parquet")
    with pytest.raises(ValueError, match="points.parquet holds a token"):
        check_folder(folder)


def test_the_login_itself_is_never_part_of_a_file(folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "a-token-of-another-form")
    (folder / "README.md").write_text("set HF_TOKEN=a-token-of-another-form")
    with pytest.raises(ValueError, match="README.md holds a token"):
        check_folder(folder)


def test_links_and_empty_folders_are_refused(folder, tmp_path):
    os.symlink("/etc/passwd", folder / "plots" / "link.png")
    with pytest.raises(ValueError, match="plots/link.png is a link"):
        check_folder(folder)
    with pytest.raises(FileNotFoundError, match="holds no files"):
        check_folder(tmp_path / "nowhere")


def test_names_and_sizes_are_handed_out(folder):
    assert dict(check_folder(folder)) == {name: len(content) for name, content in contents(folder).items()}
