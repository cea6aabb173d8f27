"""The local Hub is a Hub: what the libraries do with huggingface.co works here, and every accident happens.

What is asserted about a library's reaction to an accident is measured with huggingface_hub 2.4; the code of this
repository that publishes and fetches builds on it.
"""

import hashlib
import io
import math
import socket
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import timm
import torch
from hub.local_hub import LocalHub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    BadRequestError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session

from hf_kcd.models import save_model

WEIGHTS = bytes(np.random.default_rng(0).integers(0, 256, 30_000, dtype=np.uint8))
FILES = {
    "README.md": b"---\nlicense: mit\npipeline_tag: image-classification\ntags:\n- small\n---\n# A card\n",
    "config.json": b'{"a": 1}',
    "model.safetensors": WEIGHTS,
    "plots/curves.png": b"\x89PNG",
    "empty.json": b"",
}


@pytest.fixture
def api(hub: LocalHub) -> HfApi:
    return HfApi()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path, content in FILES.items():
        (tmp_path / "folder" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / path).write_bytes(content)
    return tmp_path / "folder"


def contents(folder: str | Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*.*")}
    return {path: content for path, content in found.items() if path != ".gitattributes"}


def log_in(monkeypatch, token: str | None) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    else:
        monkeypatch.delenv("HF_TOKEN")


def add(path: str, content: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path, content)


def cached_blobs() -> list[str]:
    return [path.name for path in Path(huggingface_hub.constants.HF_HUB_CACHE).glob("*/blobs/*")]


# The whole suite.


def test_no_library_of_this_process_knows_the_real_hub(hub):
    assert hub.endpoint.startswith("http://127.0.0.1:")
    assert huggingface_hub.constants.ENDPOINT == datasets.config.HF_ENDPOINT == hub.endpoint
    assert huggingface_hub.constants.HF_HUB_DISABLE_XET
    assert huggingface_hub.hf_hub_url("me/x", "a.json") == f"{hub.endpoint}/me/x/resolve/main/a.json"


def test_another_process_knows_the_local_hub_alone_and_nobody_is_logged_in(hub, run_fresh):
    program = (
        "from huggingface_hub import constants, get_token\n"
        "print(constants.ENDPOINT, get_token(), constants.HF_HUB_CACHE)"
    )
    first, second = (run_fresh(program).stdout.split() for _ in range(2))
    assert first[:2] == second[:2] == [hub.endpoint, "None"]
    assert first[2] != second[2]
    token = hub.token("you")
    assert run_fresh("import huggingface_hub as h; print(h.whoami()['name'])", token=token).stdout == "you\n"


# Up and down.


@pytest.mark.parametrize("repo_type", ["model", "dataset"])
def test_a_folder_goes_up_in_one_commit_and_comes_back(hub, api, folder, repo_type):
    url = api.create_repo("me/x", repo_type=repo_type)
    assert (url.repo_id, url.repo_type) == ("me/x", repo_type)
    commit = api.upload_folder(repo_id="me/x", repo_type=repo_type, folder_path=folder, commit_message="First")
    assert hub.files("me/x", repo_type) == FILES
    assert [c.title for c in hub.commits("me/x", repo_type)] == ["First", "initial commit"]
    assert commit.oid == hub.commits("me/x", repo_type)[0].sha
    assert commit.repo_url.repo_id == "me/x"
    assert contents(snapshot_download("me/x", repo_type=repo_type)) == FILES
    # Weights and pictures took the way of large files, the text travelled within the commit.
    sent = b"".join(request.body for request in hub.requests if "/commit/" in request.path)
    assert hashlib.sha256(WEIGHTS).hexdigest().encode() in sent
    assert [len(request.body) for request in hub.requests if request.method == "PUT"].count(len(WEIGHTS)) == 1


def test_what_is_there_already_is_not_sent_again(hub, api, folder):
    api.create_repo("me/x")
    api.upload_folder(repo_id="me/x", folder_path=folder)
    hub.requests.clear()
    api.upload_folder(repo_id="me/x", folder_path=folder)
    assert not [request for request in hub.requests if request.method == "PUT" or "/commit/" in request.path]
    api.create_repo("me/y")
    api.create_commit("me/y", [add("w.safetensors", WEIGHTS)], commit_message="Same bytes")
    assert not [request for request in hub.requests if request.method == "PUT"]
    assert hub.files("me/y") == {"w.safetensors": WEIGHTS}


def test_size_and_suffix_decide_on_the_way_of_large_files(hub, api):
    hub.lfs_above = 1000
    api.create_repo("me/x")
    operations = [add("long.json", b"1" * 1001), add("short.json", b"1" * 1000), add("small.png", b"1")]
    api.create_commit("me/x", operations, commit_message="m")
    info = {file.path: file for file in api.list_repo_tree("me/x")}
    assert {path for path, file in info.items() if file.lfs} == {"long.json", "small.png"}
    assert info["long.json"].lfs.sha256 == hashlib.sha256(b"1" * 1001).hexdigest()
    # The id that git gives a file: `printf 1...1 | git hash-object --stdin`.
    assert info["short.json"].blob_id == hashlib.sha1(b"blob 1000\0" + b"1" * 1000).hexdigest()


def test_files_are_deleted_by_pattern_and_by_folder(hub, api, folder):
    api.create_repo("me/x")
    api.upload_folder(repo_id="me/x", folder_path=folder)
    (folder / "config.json").write_text("new")
    (folder / "empty.json").unlink()
    api.upload_folder(repo_id="me/x", folder_path=folder, delete_patterns=["*.json", "*.md"])
    assert hub.files("me/x") == {key: value for key, value in FILES.items() if key != "empty.json"} | {
        "config.json": b"new"
    }
    api.create_commit("me/x", [CommitOperationDelete("plots/", is_folder=True)], commit_message="Without plots")
    assert "plots/curves.png" not in hub.files("me/x")
    assert ".gitattributes" in api.list_repo_files("me/x")
    before = hub.commits("me/x")
    with pytest.raises(RemoteEntryNotFoundError, match="A file with this name doesn't exist"):
        api.create_commit("me/x", [CommitOperationDelete("nothing.json")], commit_message="m")
    assert hub.commits("me/x") == before


def test_an_object_with_another_hash_than_announced_is_refused(hub, api):
    api.create_repo("me/x")
    operation = add("model.safetensors", WEIGHTS)
    operation.upload_info.sha256 = hashlib.sha256(b"other").digest()
    with pytest.raises(RuntimeError, match="Error while uploading 'model.safetensors'") as error:
        api.create_commit("me/x", [operation], commit_message="m")
    assert isinstance(error.value.__cause__, BadRequestError) and "SHA-256" in str(error.value.__cause__)
    operation = add("model.safetensors", WEIGHTS)
    operation._is_uploaded, operation._upload_mode = True, "lfs"
    with pytest.raises(BadRequestError, match="LFS pointer pointed to a file that does not exist"):
        api.create_commit("me/x", [operation], commit_message="m")
    assert hub.files("me/x") == {}


def test_the_metadata_of_a_card_are_checked_and_read(hub, api):
    api.create_repo("me/x")
    api.create_commit("me/x", [add("README.md", FILES["README.md"])], commit_message="m")
    info = api.model_info("me/x", files_metadata=True)
    assert (info.card_data.license, info.pipeline_tag) == ("mit", "image-classification")
    assert {file.rfilename: file.size for file in info.siblings}["README.md"] == len(FILES["README.md"])
    with pytest.raises(ValueError, match="Invalid metadata in README.md"):
        api.create_commit("me/x", [add("README.md", b"---\na: [\n---\n")], commit_message="m")
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        api.create_commit("me/x", [add("README.md", b"No head")], commit_message="m")


def test_files_put_without_a_client_are_served_whatever_their_names(hub, api):
    sha = hub.put("you/data", {"../out.json": b"1", "a b/é.json": b"2"}, repo_type="dataset")
    assert hub.commits("you/data", "dataset")[0].sha == sha
    assert {"../out.json", "a b/é.json"} < set(api.list_repo_files("you/data", repo_type="dataset"))
    assert Path(hf_hub_download("you/data", "a b/é.json", repo_type="dataset")).read_bytes() == b"2"


def test_repositories_are_found_by_the_tags_of_their_cards(hub, api, monkeypatch):
    hub.put("me/x", FILES)
    hub.put("me/hidden", FILES, private=True)
    hub.put("you/x", {"README.md": b"---\ntags: [small, other]\ndatasets: me/data\n---\n"})
    hub.put("me/data", FILES, repo_type="dataset")

    def found(**query):
        return [info.id for info in api.list_models(**query)]

    assert found() == ["me/x", "me/hidden", "you/x"]
    assert found(filter="small", author="me") == ["me/x", "me/hidden"]
    assert found(filter=["small", "other"]) == found(filter="dataset:me/data") == ["you/x"]
    assert found(filter=["license:mit", "image-classification"], search="HID") == ["me/hidden"]
    assert [info.id for info in api.list_datasets(filter="small")] == ["me/data"]
    log_in(monkeypatch, None)
    assert found() == ["me/x", "you/x"]


# Revisions.


def test_branches_tags_and_commits_name_states(hub, api):
    first = hub.put("me/x", {"a.json": b"1"})
    api.create_tag("me/x", tag="v1")
    api.create_branch("me/x", branch="try/one")
    api.create_commit("me/x", [add("a.json", b"2")], commit_message="Two", revision="try/one")
    third = hub.put("me/x", {"a.json": b"3"})

    def read(revision):
        return Path(hf_hub_download("me/x", "a.json", revision=revision)).read_bytes()

    assert [read(name) for name in ("main", "v1", first, "try/one", third)] == [b"3", b"1", b"1", b"2", b"3"]
    assert api.model_info("me/x", revision="v1").sha == first
    assert [commit.title for commit in api.list_repo_commits("me/x", revision="try/one")][:1] == ["Two"]
    refs = api.list_repo_refs("me/x")
    assert {ref.name for ref in refs.branches} == {"main", "try/one"}
    assert [(ref.name, ref.target_commit) for ref in refs.tags] == [("v1", first)]
    assert hub.files("me/x", revision="try/one") == {"a.json": b"2"}
    for create in (lambda: api.create_branch("me/x", branch="main"), lambda: api.create_tag("me/x", tag="v1")):
        with pytest.raises(HfHubHTTPError, match="Reference already exists"):
            create()
    api.create_branch("me/x", branch="main", exist_ok=True)
    api.delete_tag("me/x", tag="v1")
    api.delete_branch("me/x", branch="try/one")
    for name in ("v1", "try/one", "f" * 40):
        with pytest.raises(RevisionNotFoundError):
            read(name)
    with pytest.raises(RevisionNotFoundError):
        api.create_commit("me/x", [add("a.json", b"2")], commit_message="m", revision="v1")


def test_a_commit_on_an_outdated_parent_is_refused(hub, api):
    old = hub.put("me/x", {"a.json": b"1"})
    new = hub.put("me/x", {"a.json": b"2"})
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as error:
        api.create_commit("me/x", [add("a.json", b"3")], commit_message="m", parent_commit=old)
    assert error.value.response.status_code == 412
    api.create_commit("me/x", [add("a.json", b"3")], commit_message="m", parent_commit=new)
    assert hub.files("me/x") == {"a.json": b"3"}
    assert hub.commits("me/x")[0].parent == new


def test_what_is_not_there_is_named(hub, api):
    hub.put("me/x", {"a.json": b"1"})
    assert api.file_exists("me/x", "a.json") and not api.file_exists("me/x", "b.json")
    assert not api.file_exists("me/y", "a.json") and not api.repo_exists("me/x", repo_type="dataset")
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download("me/x", "b.json")
    with pytest.raises(RepositoryNotFoundError):
        snapshot_download("me/y")
    with pytest.raises(RepositoryNotFoundError, match="Creating a commit assumes that the repo already exists"):
        api.create_commit("me/y", [add("a.json", b"1")], commit_message="m")
    assert [file.path for file in api.get_paths_info("me/x", ["a.json", "b.json"])] == ["a.json"]


def test_a_repository_is_created_once_and_can_be_deleted(hub, api):
    assert api.create_repo("x") == f"{hub.endpoint}/me/x"
    with pytest.raises(HfHubHTTPError, match="You already created this model repo"):
        api.create_repo("me/x")
    assert api.create_repo("me/x", exist_ok=True).repo_id == "me/x"
    api.delete_repo("me/x")
    assert not api.repo_exists("me/x")


# Who may what.


def test_a_private_repository_is_none_for_strangers(hub, api, folder, monkeypatch):
    api.create_repo("me/x", private=True)
    api.upload_folder(repo_id="me/x", folder_path=folder)
    assert api.model_info("me/x").private
    assert contents(snapshot_download("me/x")) == FILES
    for token, status in ((None, 401), (hub.token("you"), 404)):
        log_in(monkeypatch, token)
        for fetch in (api.model_info, api.list_repo_files, lambda name: hf_hub_download(name, "not_cached.json")):
            with pytest.raises(RepositoryNotFoundError) as error:
                fetch("me/x")
            assert error.value.response.status_code == status
    log_in(monkeypatch, hub.token("me", write=False))
    api.model_info("me/x")
    log_in(monkeypatch, hub.token("me"))
    api.update_repo_settings("me/x", private=False)
    log_in(monkeypatch, None)
    assert not api.model_info("me/x").private


def test_only_the_owner_writes_and_only_with_a_token_to_write(hub, api, monkeypatch):
    hub.put("me/x", {"a.json": b"1"})
    before = hub.commits("me/x")

    def push():
        api.create_commit("me/x", [add("a.json", b"2")], commit_message="m")

    for token in (hub.token("me", write=False), hub.token("you")):
        log_in(monkeypatch, token)
        with pytest.raises(HfHubHTTPError, match="403 Forbidden: you must use a write token"):
            push()
        with pytest.raises(HfHubHTTPError, match="You don't have the rights to create a model under the namespace"):
            api.create_repo("me/y")
    log_in(monkeypatch, "hf_nobodys")
    for act in (push, api.whoami, lambda: api.model_info("me/x")):
        with pytest.raises(HfHubHTTPError) as error:
            act()
        assert error.value.response.status_code == 401
    log_in(monkeypatch, None)
    with pytest.raises(RepositoryNotFoundError, match="401"):
        push()
    with pytest.raises(HfHubHTTPError, match="401"):
        api.create_repo("me/y")
    assert hub.commits("me/x") == before and ("model", "me/y") not in hub.repositories


def test_a_gated_repository_shows_its_list_and_keeps_its_files(hub, api, monkeypatch):
    hub.put("me/x", {"a.json": b"1"})
    hub.repository("me/x").gated = True
    for token in (hub.token("you"), None):
        log_in(monkeypatch, token)
        assert "a.json" in api.list_repo_files("me/x")
        with pytest.raises(GatedRepoError, match="Access to model me/x is restricted"):
            hf_hub_download("me/x", "a.json")


def test_a_token_goes_to_the_hub_and_nowhere_else(hub, api):
    hub.put("me/x", {"model.safetensors": WEIGHTS})
    snapshot_download("me/x")
    assert {request.headers["authorization"][:10] for request in hub.requests} == {"Bearer hf_"}


# The libraries.


def test_datasets_loads_a_table(hub, run_fresh):
    table = io.BytesIO()
    pa.parquet.write_table(pa.table({"point": [3, 1], "kept": [True, False]}), table)
    card = b"---\nconfigs:\n- config_name: default\n  data_files: points.parquet\n---\n"
    hub.put("me/mask", {"points.parquet": table.getvalue(), "README.md": card}, repo_type="dataset")
    loaded = datasets.load_dataset("me/mask", split="train")
    assert loaded.to_dict() == {"point": [3, 1], "kept": [True, False]}
    rows = datasets.load_dataset("me/mask", split="train", streaming=True)
    assert [row["point"] for row in rows] == [3, 1]
    private = "import datasets; print(datasets.load_dataset('me/mask', split='train')['point'][:])"
    hub.repository("me/mask", "dataset").private = True
    assert run_fresh(private, token=hub.token("me", write=False)).stdout.endswith("[3, 1]\n")
    refused = run_fresh(private)
    assert refused.returncode == 1 and "doesn't exist on the Hub or cannot be accessed" in refused.stderr


def test_timm_and_transformers_load_a_network(hub, api, tmp_path):
    from transformers import AutoModelForImageClassification

    network = timm.create_model("test_resnet.r160_in1k", num_classes=3).eval()
    save_model(network, tmp_path / "network", label_names=["ant", "bee", "cat"])
    api.create_repo("me/x")
    api.upload_folder(repo_id="me/x", folder_path=tmp_path / "network")
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    by_timm = timm.create_model("hf_hub:me/x", pretrained=True).eval()
    by_transformers = AutoModelForImageClassification.from_pretrained("me/x").eval()
    with torch.no_grad():
        assert torch.equal(by_timm(images), network(images))
        assert torch.equal(by_transformers(images).logits, network(images))
    assert by_transformers.config.id2label == {0: "ant", 1: "bee", 2: "cat"}


def test_what_was_downloaded_serves_without_a_network(hub, run_fresh, tmp_path):
    hub.put("me/x", {"a.json": b"1"})
    program = "import huggingface_hub as h; print(open(h.snapshot_download('me/x') + '/a.json').read())"
    assert run_fresh(program, cache=tmp_path / "cache").stdout == "1\n"
    hub.requests.clear()
    assert run_fresh(program, cache=tmp_path / "cache", offline=True).stdout == "1\n"
    assert "outgoing traffic has been disabled" in run_fresh(program, offline=True).stderr
    assert hub.requests == []


def test_a_part_of_a_file_is_served(hub):
    hub.put("me/x", {"w.safetensors": WEIGHTS})
    url = huggingface_hub.hf_hub_url("me/x", "w.safetensors")
    for header, part in (("bytes=10-19", slice(10, 20)), ("bytes=29990-", slice(29990, None))):
        answer = get_session().get(url, headers={"Range": header})
        assert answer.status_code == 206 and answer.content == WEIGHTS[part]
    assert answer.headers["Content-Range"] == "bytes 29990-29999/30000"
    assert get_session().get(url, headers={"Range": "bytes=30000-"}).status_code == 416
    head = get_session().head(url)
    assert (head.headers["Content-Length"], head.headers["X-Linked-Size"], head.content) == ("30000", "30000", b"")


# Accidents.


def test_every_kind_of_accident_has_a_name(hub):
    with pytest.raises(ValueError, match="No fault is called 'flood'. There are status, drop,"):
        hub.fail(".", "flood")


def test_an_error_of_the_server_is_answered_as_often_as_told(hub, api):
    hub.put("me/x", {"a.json": b"1"})
    hub.fail("GET /api/models/me/x", "status", times=2, status=503)
    for _ in range(2):
        with pytest.raises(HfHubHTTPError) as error:
            api.model_info("me/x")
        assert error.value.response.status_code == 503
    api.model_info("me/x")
    hub.fail("GET /api/datasets/", "status", math.inf)
    api.model_info("me/x")


def test_too_many_requests_make_the_client_wait_as_long_as_told(hub, api, waits):
    hub.put("me/x", {"a.json": b"1"})
    hub.fail("preupload", "status", status=429, retry_after=7)
    api.create_commit("me/x", [add("a.json", b"2")], commit_message="m")
    # The client adds a second for rounding.
    assert waits == [8.0]
    hub.fail("/commit/", "status", status=429, retry_after=7)
    with pytest.raises(HfHubHTTPError) as error:
        api.create_commit("me/x", [add("a.json", b"3")], commit_message="m")
    assert error.value.response.headers["Retry-After"] == "7"
    assert hub.files("me/x") == {"a.json": b"2"}


@pytest.mark.parametrize(("kind", "committed"), [("drop", False), ("drop_upload", False), ("lost", True)])
def test_a_connection_lost_at_the_commit_leaves_the_old_or_the_new_state(hub, api, kind, committed):
    hub.put("me/x", {"a.json": b"1", "b.json": b"1"})
    hub.fail("POST .*/commit/main", kind, after=50)
    with pytest.raises(HTTPError):
        api.create_commit("me/x", [add("a.json", b"2"), add("b.json", b"2" * 100_000)], commit_message="New")
    assert hub.files("me/x")["a.json"] == (b"2" if committed else b"1")
    assert (hub.commits("me/x")[0].title == "New") is committed


def test_a_connection_lost_within_a_large_file_is_tried_again(hub, api, waits):
    content = WEIGHTS * 100
    hub.put("me/x", {})
    hub.fail("PUT /lfs/", "drop_upload", times=2, after=100_000)
    api.create_commit("me/x", [add("model.safetensors", content)], commit_message="m")
    assert hub.files("me/x") == {"model.safetensors": content}
    sizes = [len(request.body) for request in hub.requests if request.method == "PUT"]
    assert sizes == [100_000, 100_000, len(content)]
    hub.fail("PUT /lfs/", "drop_upload", math.inf, after=100_000)
    before = hub.commits("me/x")
    with pytest.raises(RuntimeError, match="Error while uploading") as error:
        api.create_commit("me/x", [add("model.safetensors", content[1:])], commit_message="m")
    assert isinstance(error.value.__cause__, HTTPError)
    assert hub.commits("me/x") == before


def test_a_connection_lost_within_a_download_is_taken_up_at_the_last_whole_chunk(hub, waits, monkeypatch):
    hub.put("me/x", {"model.safetensors": WEIGHTS})
    # 10 MB by themselves: a smaller file is begun anew.
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 4_000)
    hub.fail("GET .*model.safetensors", "drop_download", after=10_000)
    assert Path(hf_hub_download("me/x", "model.safetensors")).read_bytes() == WEIGHTS
    ranges = [request.headers.get("range") for request in hub.requests if request.method == "GET"]
    assert ranges == [None, "bytes=8000-"]


def test_a_download_that_never_ends_leaves_nothing(hub, waits):
    hub.put("me/x", {"model.safetensors": WEIGHTS})
    hub.fail("GET .*model.safetensors", "drop_download", after=10_000)
    hub.fail("GET .*model.safetensors", "drop", math.inf)
    with pytest.raises(HTTPError):
        hf_hub_download("me/x", "model.safetensors")
    assert cached_blobs() == []


def test_a_truncated_file_is_noticed_unless_its_size_was_told_wrong_before(hub):
    hub.put("me/x", {"model.safetensors": WEIGHTS, "other.safetensors": WEIGHTS[1:]})
    hub.fail("GET .*model.safetensors", "short", after=10_000)
    with pytest.raises(OSError, match="Consistency check failed: file should be of size 30000 but has size 10000"):
        hf_hub_download("me/x", "model.safetensors")
    assert cached_blobs() == []
    hub.fail("resolve", "short", times=2, after=10_000)
    assert Path(hf_hub_download("me/x", "other.safetensors")).read_bytes() == WEIGHTS[1:10_001]


def test_wrong_bytes_are_taken_for_the_file_though_its_name_in_the_cache_tells(hub):
    hub.put("me/x", {"model.safetensors": WEIGHTS})
    hub.fail("GET .*model.safetensors", "corrupt")
    content = Path(hf_hub_download("me/x", "model.safetensors")).read_bytes()
    assert len(content) == len(WEIGHTS) and not any(a == b for a, b in zip(content, WEIGHTS, strict=True))
    assert cached_blobs() == [hashlib.sha256(WEIGHTS).hexdigest()]
    again = hf_hub_download("me/x", "model.safetensors", force_download=True)
    assert Path(again).read_bytes() == WEIGHTS


def test_a_refused_connection_is_reported_at_once(hub, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    api = HfApi(endpoint=f"http://127.0.0.1:{port}")
    with pytest.raises(HTTPError):
        api.create_repo("me/x")
    with pytest.raises(LocalEntryNotFoundError) as error:
        api.snapshot_download("me/x")
    assert isinstance(error.value.__cause__, HTTPError)


def test_accidents_and_repositories_end_with_the_test_that_made_them(hub):
    assert hub.repositories == {} and hub.requests == []
    with pytest.raises(RepositoryNotFoundError):
        HfApi().model_info("me/x")
