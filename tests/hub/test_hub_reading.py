"""Reading a repository: whole files of one commit, or one clear line."""

import json
import math

import huggingface_hub
import pytest
import timm
import torch

from hf_kcd.hub import fetch_files
from hf_kcd.models import load_model, save_model

# A large file (LFS: the cache names it by its SHA-256) and a small one (named by git's checksum).
FILES = {"table.parquet": bytes(range(256)) * 40, "config.json": b'{"type": "something"}', "README.md": b"Read me."}
NAMES = ["table.parquet", "config.json"]
WANTED = {name: FILES[name] for name in NAMES}


@pytest.fixture
def repo(hub):
    hub.put("me/things", FILES, "dataset")
    return hub


def fetch(required=NAMES, repo_id="me/things", **options):
    folder = fetch_files(repo_id, required, repo_type="dataset", **options)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(error_type, *arguments, **options) -> str:
    with pytest.raises(error_type) as error:
        fetch(*arguments, **options)
    text = str(error.value)
    assert "\n" not in text and len(text) < 400
    return text


def test_named_files_are_fetched_of_the_wanted_revision_and_offline_from_the_cache(repo, monkeypatch):
    assert fetch(["config.json"], optional=["table.parquet", "absent.json"]) == WANTED
    assert not [request for request in repo.requests if "README" in request.path]
    first = repo.commits("me/things", "dataset")[0].sha
    repo.put("me/things", {"config.json": b"{}"}, "dataset")
    huggingface_hub.HfApi().create_tag("me/things", tag="v1", revision=first, repo_type="dataset")
    assert fetch()["config.json"] == b"{}"
    assert fetch(revision=first) == fetch(revision="v1") == fetch(repo_id="me/things@v1") == WANTED
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert fetch(revision="v1") == WANTED
    assert "'me/other' cannot be read offline and is not whole" in refused(ConnectionError, repo_id="me/other")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("kind", "times"), [("corrupt", 1), ("short", 2)])
def test_a_damaged_file_is_fetched_again_and_refused_if_it_stays_damaged(repo, name, kind, times):
    repo.fail(f"resolve/.*/{name}", kind, times=times, after=10)
    assert fetch() == WANTED
    repo.fail(f"resolve/.*/{name}", "corrupt", times=math.inf)
    said = refused(ConnectionError, force=True)
    assert said.startswith(f"{name} of the data set repository 'me/things' came damaged twice")
    repo.mend()
    assert fetch() == WANTED


def test_a_download_that_breaks_off_leaves_no_half_file(repo, waits, tmp_path):
    repo.fail("GET .*resolve/.*table", "drop_download", times=math.inf, after=1000)
    assert "'me/things' could not be read: the connection to the Hub failed or broke" in refused(ConnectionError)
    assert not list((tmp_path / "hub_cache").rglob("table.parquet*"))
    repo.mend()
    assert fetch() == WANTED


@pytest.mark.parametrize("request_", ["", "GET .*/api/", "HEAD"])
def test_without_a_connection_the_cache_is_read(repo, waits, tmp_path, request_):
    save_model(timm.create_model("cifar_resnet8", num_classes=3), tmp_path / "student")
    repo.put("me/x", {path.name: path.read_bytes() for path in (tmp_path / "student").iterdir()})
    first, files = load_model("hf_hub:me/x"), fetch()
    repo.fail(request_, "drop", times=math.inf)
    assert fetch() == files == WANTED
    again = load_model("hf_hub:me/x")
    assert all(torch.equal(tensor, first.state_dict()[name]) for name, tensor in again.state_dict().items())
    assert (again.pretrained_cfg["source"], again.pretrained_cfg["hf_hub_id"]) == ("hf-hub", "me/x")
    repo.mend()
    repo.fail("", "drop", times=math.inf)
    for names in ([*NAMES, "README.md"], ["README.md"]):
        assert "the connection to the Hub failed or broke" in refused(ConnectionError, names)


def test_a_student_whose_files_are_damaged_is_one_clear_error(hub, tmp_path):
    save_model(timm.create_model("cifar_resnet8", num_classes=3), tmp_path / "student")
    files = {path.name: path.read_bytes() for path in (tmp_path / "student").iterdir()}
    config = json.loads(files["config.json"])
    damage = [("architecture", 5), ("num_classes", "3"), ("num_classes", 4), ("model_args", "x")]
    damage += [("model_args", {"foo": 1}), ("pretrained_cfg", None)]
    damaged = [{"config.json": json.dumps({**config, key: value}).encode()} for key, value in damage]
    for number, change in enumerate([*damaged, {"model.safetensors": b"cut"}]):
        hub.put(f"me/x{number}", files | change)
        with pytest.raises(ValueError) as error:
            load_model(f"hf_hub:me/x{number}")
        assert "\n" not in str(error.value), change


def test_every_reason_is_one_line(repo, monkeypatch, waits):
    with pytest.raises(FileNotFoundError, match=r"^The model repository 'me/nothing' does not exist, or is private"):
        fetch_files("me/nothing", ["config.json"])
    assert "'me/things' at revision 'v9' does not have that revision" in refused(FileNotFoundError, revision="v9")
    lacks = refused(FileNotFoundError, ["mask.safetensors"])
    assert lacks == "The data set repository 'me/things' has no mask.safetensors."
    assert "cannot exist: write user/name" in refused(ValueError, repo_id="a/b/c")
    for status, words in ((500, "the Hub failed with 500"), (429, "fewer requests"), (418, "refused with 418")):
        repo.fail("", "status", times=math.inf, status=status)
        assert words in refused(OSError if status == 418 else ConnectionError)
        repo.mend()
    repo.put("you/gated", FILES, "dataset")
    repo.repository("you/gated", "dataset").gated = True
    assert "has terms to accept" in refused(PermissionError, repo_id="you/gated")
    repo.repository("me/things", "dataset").private = True
    monkeypatch.delenv("HF_TOKEN")
    assert "does not exist, or is private and hidden from you" in refused(FileNotFoundError)
