"""Reading a repository: whole files of one commit or one clear line, whatever happens on the way."""

import json
import math

import huggingface_hub
import pytest
import timm
import torch
from hub.local_hub import LocalHub

from hf_kcd.hub.download import fetch_files
from hf_kcd.models import load_model, save_model

# A large file (LFS, named by its SHA-256 in the cache) and a small one (named by git's checksum).
FILES = {"table.parquet": bytes(range(256)) * 40, "config.json": b'{"type": "something"}', "README.md": b"Read me."}


@pytest.fixture
def repo(hub: LocalHub) -> LocalHub:
    hub.put("me/things", FILES, "dataset")
    return hub


def fetch(required=("table.parquet", "config.json"), **options):
    folder = fetch_files("me/things", required, repo_type="dataset", **options)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_named_files_are_fetched_and_no_others(repo):
    assert fetch(["config.json"], optional=["table.parquet", "absent.json"]) == {
        name: FILES[name] for name in ("config.json", "table.parquet")
    }
    assert not [request for request in repo.requests if "README" in request.path]


@pytest.mark.parametrize("name", ["table.parquet", "config.json"])
@pytest.mark.parametrize("kind", ["corrupt", "short"])
def test_a_file_that_comes_damaged_is_fetched_again(repo, name, kind):
    repo.fail(f"resolve/.*/{name}", kind, times=2 if kind == "short" else 1, after=10)
    assert fetch() == {name: FILES[name] for name in ("config.json", "table.parquet")}


@pytest.mark.parametrize("name", ["table.parquet", "config.json"])
def test_a_file_that_always_comes_damaged_is_refused_and_works_once_the_hub_does(repo, name):
    repo.fail(f"resolve/.*/{name}", "corrupt", times=math.inf)
    with pytest.raises(ConnectionError, match=f"^{name} of the data set repository 'me/things' came damaged twice"):
        fetch()
    repo.mend()
    assert fetch()[name] == FILES[name]


def test_a_download_that_breaks_off_leaves_no_half_file(repo, waits, tmp_path):
    repo.fail("GET .*resolve/.*table", "drop_download", times=math.inf, after=1000)
    with pytest.raises(ConnectionError, match="'me/things' could not be read.* Check it and try again"):
        fetch()
    assert not list((tmp_path / "hub_cache").rglob("table.parquet*"))
    repo.mend()
    assert fetch()["table.parquet"] == FILES["table.parquet"]


def test_all_files_are_of_the_revision_asked_for(repo):
    first = repo.commits("me/things", "dataset")[0].sha
    repo.put("me/things", {"config.json": b"{}"}, "dataset")
    huggingface_hub.HfApi().create_tag("me/things", tag="v1", revision=first, repo_type="dataset")
    assert fetch()["config.json"] == b"{}"
    assert fetch(revision=first)["config.json"] == fetch(revision="v1")["config.json"] == FILES["config.json"]
    named = fetch_files("me/things@v1", ["config.json"], repo_type="dataset")
    assert (named / "config.json").read_bytes() == FILES["config.json"]


def test_what_is_in_the_cache_is_read_offline_and_what_is_not_says_so(repo, monkeypatch):
    fetch()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert fetch()["config.json"] == FILES["config.json"]
    with pytest.raises(ConnectionError, match="'me/other' cannot be read offline and is not whole in the cache"):
        fetch_files("me/other", ["config.json"], repo_type="dataset")


@pytest.mark.parametrize("request_", ["", "HEAD"])
def test_a_connection_that_breaks_leaves_a_student_in_the_cache(hub, waits, tmp_path, request_):
    save_model(timm.create_model("cifar_resnet8", num_classes=3), tmp_path / "student")
    hub.put("me/x", {path.name: path.read_bytes() for path in (tmp_path / "student").iterdir()})
    first = load_model("hf_hub:me/x")
    hub.fail(request_, "drop", times=math.inf)
    again = load_model("hf_hub:me/x")
    assert all(torch.equal(tensor, first.state_dict()[name]) for name, tensor in again.state_dict().items())
    assert (again.pretrained_cfg["source"], again.pretrained_cfg["hf_hub_id"]) == ("hf-hub", "me/x")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("architecture", 5),
        ("num_classes", "3"),
        ("num_classes", 4),
        ("model_args", "x"),
        ("model_args", {"foo": 1}),
        ("pretrained_cfg", None),
        ("weights", b"cut"),
    ],
)
def test_a_student_whose_files_are_damaged_is_one_clear_error(hub, tmp_path, key, value):
    save_model(timm.create_model("cifar_resnet8", num_classes=3), tmp_path / "student")
    files = {path.name: path.read_bytes() for path in (tmp_path / "student").iterdir()}
    if key == "weights":
        files["model.safetensors"] = value
    else:
        files["config.json"] = json.dumps({**json.loads(files["config.json"]), key: value}).encode()
    hub.put("me/x", files)
    with pytest.raises(ValueError) as error:
        load_model("hf_hub:me/x")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("request_", ["", "GET .*/api/", "HEAD"])
def test_a_connection_that_breaks_leaves_what_is_in_the_cache(repo, waits, request_):
    fetch()
    repo.fail(request_, "drop", times=math.inf)
    assert fetch() == {name: FILES[name] for name in ("config.json", "table.parquet")}


def test_a_connection_that_breaks_is_the_reason_where_the_cache_is_not_whole(repo, waits):
    fetch(["config.json"])
    repo.fail("", "drop", times=math.inf)
    for names in (["config.json", "table.parquet"], ["README.md"]):
        with pytest.raises(ConnectionError) as error:
            fetch(names)
        assert "the connection to the Hub failed or broke" in line(error)


def line(error) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 400
    return text


def test_every_reason_is_one_line(repo, monkeypatch, waits):
    with pytest.raises(FileNotFoundError) as error:
        fetch_files("me/nothing", ["config.json"])
    assert "model repository 'me/nothing' does not exist, or is private" in line(error)
    with pytest.raises(FileNotFoundError) as error:
        fetch(revision="v9")
    assert "'me/things' at revision 'v9' does not have that revision" in line(error)
    with pytest.raises(FileNotFoundError) as error:
        fetch(["mask.safetensors"])
    assert line(error) == "The data set repository 'me/things' has no mask.safetensors."
    with pytest.raises(ValueError) as error:
        fetch_files("a/b/c", ["config.json"])
    assert "a repository's id is a user's name and its own" in line(error)
    repo.repository("me/things", "dataset").private = True
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(FileNotFoundError) as error:
        fetch()
    assert "does not exist, or is private and not yours to see" in line(error)


@pytest.mark.parametrize(("status", "words"), [(500, "the Hub failed with 500"), (429, "fewer requests")])
def test_a_hub_that_fails_throughout_is_one_line(repo, waits, status, words):
    repo.fail("", "status", times=math.inf, status=status)
    with pytest.raises(ConnectionError) as error:
        fetch()
    assert words in line(error)
