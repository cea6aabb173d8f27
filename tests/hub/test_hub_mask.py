"""Masks on the Hub: what is published, what a stranger gets, and what happens when a connection or a file breaks."""

import json
from dataclasses import asdict, replace
from io import BytesIO

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from condensation.mask_examples import assert_equal, image_data, make_mask
from hub.published import SOFT_LABEL_FILES
from huggingface_hub import DatasetCard
from PIL import Image

from hf_kcd import KnowledgeMask
from hf_kcd.artifacts.identity import DatasetIdentity
from hf_kcd.condensation.mask_card import mask_card
from hf_kcd.data import Preprocessing, SoftLabels
from hf_kcd.data.packing import pack_logits

FILES = {"README.md", "data/points.parquet", "mask.safetensors", "mask_config.json", "plots/values.png"}
REPO = "me/pets-mask"
DATA = image_data()


@pytest.fixture(scope="module")
def mask() -> KnowledgeMask:
    return replace(make_mask(DatasetIdentity.of(DATA)), labels=torch.tensor(DATA["label"][:]))


@pytest.fixture(scope="module")
def repository(mask, tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("repository")
    mask.write_repository(folder, repo_id=REPO)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def published(hub, mask, repository) -> KnowledgeMask:
    hub.put(REPO, repository, "dataset")
    return mask


def soft_labels_of(mask: KnowledgeMask) -> SoftLabels:
    logits = torch.from_numpy(np.random.default_rng(5).normal(size=(2 * len(mask.kept), 3)))
    packed = pack_logits(logits, 0, 8, 4.0).items()
    parts = {name: values if values is None else values.unflatten(0, (len(mask.kept), 2)) for name, values in packed}
    parts |= {"points": mask.kept.sort().values, "dataset": mask.dataset, "teacher": "cifar_resnet20"}
    images = asdict(Preprocessing((0.5,) * 3, (0.25,) * 3, 4, "none"))
    return SoftLabels(**parts, temperature=4.0, seed=0, images=images, selection="0" * 64)


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 500
    return text


def test_a_push_is_one_commit_of_mask_table_picture_and_card(hub, mask, repository):
    # A name without a user gets that of the login.
    commit = mask.push_to_hub("pets-mask", commit_message="My mask")
    files = hub.files(REPO, "dataset")
    assert [each.title for each in hub.commits(REPO, "dataset")] == ["My mask", "initial commit"]
    assert commit.oid == hub.commits(REPO, "dataset")[0].sha
    assert commit.repo_url.repo_id == REPO and commit.repo_url.repo_type == "dataset"
    assert not hub.repository(REPO, "dataset").private
    assert b'KnowledgeMask.from_pretrained("me/pets-mask")' in files["README.md"]
    with Image.open(BytesIO(files["plots/values.png"])) as picture:
        assert min(picture.size) > 300 and len(files["plots/values.png"]) > 1000
    # Equal masks give equal files.
    assert files == repository and set(files) == FILES


def test_a_stranger_loads_the_mask_selects_its_points_and_sees_the_table(published, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    mask = KnowledgeMask.from_pretrained(REPO)
    assert_equal(mask, published)
    selected = mask.select(DATA)
    assert type(selected) is datasets.Dataset
    assert selected["label"][:] == [DATA[point]["label"] for point in sorted(published.kept.tolist())]
    splits = datasets.load_dataset(REPO)
    assert list(splits) == ["train"] and splits["train"].features["label"].names == ["cat", "dog", "owl"]
    assert splits["train"][:] == published.to_table()[:]


def test_the_card_says_what_it_is_and_how_to_use_it(hub, mask):
    mask.push_to_hub(REPO, student_repo="me/pets", teacher_repo="you/teacher", license="mit")
    card = DatasetCard(hub.files(REPO, "dataset")["README.md"].decode())
    data = card.data
    assert data.license == "mit" and data.task_categories == ["image-classification"]
    assert {"hf_kcd", "knowledge-mask", "knowledge-condensation"} <= set(data.tags)
    assert data.size_categories == ["n<1K"]
    files = [{"split": "train", "path": "data/points.parquet"}]
    assert data.configs == [{"config_name": "default", "data_files": files}]
    text = " ".join(card.text.split())
    for words in (
        "30 training points",
        "keeps 21 of them (70.0%)",
        "a discarded point to mix into 9 of them",
        f'KnowledgeMask.from_pretrained("{REPO}")',
        f'load_dataset("{REPO}", split="train")',
        f"--mask {REPO}",
        "--student resnet8x4",
        "[me/pets](https://huggingface.co/me/pets)",
        "[you/teacher](https://huggingface.co/you/teacher)",
        mask.dataset.labels,
        mask.dataset.images,
        "cat, dog, owl",
        "The mask: mit",
        "@inproceedings{li2022kcd",
    ):
        assert words in text, words
    for column in mask.to_table().column_names:
        assert f"| `{column}` |" in text
    assert "None" not in text and "STUDENT" not in text


def test_the_card_names_the_size_as_the_hub_does_and_shows_only_what_there_is(mask, tmp_path):
    unknown = dict.fromkeys(("results", "recipe", "student_repo", "teacher_repo", "soft_labels", "license"))
    for num_points, category in ((999, "n<1K"), (1000, "1K<n<10K"), (50_000, "10K<n<100K"), (1_281_167, "1M<n<10M")):
        facts = mask.description() | {"num_points": num_points}
        text = mask_card(facts, repo_id=REPO, pictures=[], **unknown)
        assert DatasetCard(text).data.size_categories == [category]
    # Nothing was recorded, and three points were mixed twice for good, one of them with a share of 0.
    history = make_mask(mask.dataset, history=True).mixing_history
    odd = replace(mask, frequency=torch.zeros_like(mask.frequency), mixing_history=history)
    odd.write_repository(tmp_path, repo_id=REPO)
    card = (tmp_path / "README.md").read_text()
    assert not (tmp_path / "plots").exists() and "plots/" not in card
    assert "| Mixed | 2, stage after stage into the 8-bit images for good" in card
    assert_equal(KnowledgeMask.from_pretrained(tmp_path), odd)


def test_a_masks_provenance_cannot_break_the_card_or_leak_a_path_or_token(hub, mask):
    command = "hf-kcd distill --data_dir /home/someone/cifar --output_dir /tmp/x --teacher_checkpoint=/data/t.pth"
    where = ["/home/someone/runs/first", {"deep": "C:\\Users\\someone\\runs\\first"}]
    provenance = {"student": "net | <b>\n# headline `code`", "teacher": "net", "method": "kd"}
    provenance |= {"command": command, "where": where}
    token = hub.token("me")
    careless = replace(mask, provenance={"command": f"hf-kcd distill --token {token}"})
    with pytest.raises(ValueError, match="mask_config.json holds a token") as error:
        careless.push_to_hub(REPO)
    assert token not in one_line(error) and not hub.repositories
    replace(mask, provenance=provenance).push_to_hub(REPO)
    files = hub.files(REPO, "dataset")
    assert not [name for name, content in files.items() if b"someone" in content]
    said = json.loads(files["mask_config.json"])["provenance"]
    assert said["where"] == ["first", {"deep": "first"}]
    assert said["command"] == "hf-kcd distill --data_dir cifar --output_dir x --teacher_checkpoint=t.pth"
    assert b"\n# headline" not in files["README.md"]


def test_soft_labels_are_published_with_their_mask_and_removed_without(hub, mask, monkeypatch):
    soft_labels = soft_labels_of(mask)
    mask.push_to_hub(REPO, soft_labels=soft_labels)
    assert set(hub.files(REPO, "dataset")) == FILES | SOFT_LABEL_FILES
    loaded = SoftLabels.from_pretrained(REPO)
    assert torch.equal(loaded.logits(loaded.points, 1), soft_labels.logits(soft_labels.points, 1))
    # They are fetched alone, and from the cache afterwards.
    asked = {request.path.rpartition("/")[2] for request in hub.requests if "/resolve/" in request.path}
    assert asked == SOFT_LABEL_FILES
    with monkeypatch.context() as offline:
        offline.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        assert torch.equal(SoftLabels.from_pretrained(REPO).codes, soft_labels.codes)
    card = hub.files(REPO, "dataset")["README.md"].decode()
    assert "2 views of every kept point, all 3 logits in 8 bits" in card and "--soft_labels true" in card
    assert len(datasets.load_dataset(REPO, split="train")) == 30
    mask.push_to_hub(REPO)
    assert set(hub.files(REPO, "dataset")) == FILES
    other = replace(mask, kept=mask.kept[:-1], partner=mask.partner[:-1], perturbation=mask.perturbation[:-1])
    with pytest.raises(ValueError, match="21 points, but not of the 20"):
        other.push_to_hub(REPO, soft_labels=soft_labels)


def test_a_mask_without_soft_labels_and_broken_ones_are_one_clear_line(hub, published, mask, tmp_path):
    soft_labels_of(mask).save_pretrained(tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name in SOFT_LABEL_FILES}
    mixed_up = "^me/soft/soft_labels.safetensors is not the file that soft_labels.json describes"
    cases = [
        ({"sha256": "0" * 64}, mixed_up),
        ({"teacher": "\x1b[2Jnet"}, "soft_labels.json holds control characters"),
    ]
    for changes, message in cases:
        changed = json.dumps(json.loads(files["soft_labels.json"]) | changes).encode()
        hub.put("me/soft", {**files, "soft_labels.json": changed}, "dataset")
        with pytest.raises(ValueError, match=message) as error:
            SoftLabels.from_pretrained("me/soft")
        one_line(error)
    without = f"^{REPO} .* has no soft_labels.json and no soft_labels.safetensors. A mask has soft labels when"
    with pytest.raises(FileNotFoundError, match=without) as error:
        SoftLabels.from_pretrained(REPO)
    one_line(error)


def test_a_private_mask_is_its_owners_and_a_branch_holds_a_mask_of_its_own(hub, mask, monkeypatch):
    first = mask.push_to_hub(REPO, private=True).oid
    with monkeypatch.context() as stranger, pytest.raises(FileNotFoundError, match="is not a folder here. .*private"):
        stranger.delenv("HF_TOKEN")
        KnowledgeMask.from_pretrained(REPO)
    replace(mask, stage=2).push_to_hub(REPO, revision="stage-2")
    replace(mask, stage=3).push_to_hub(REPO)
    found = {name: KnowledgeMask.from_pretrained(REPO, revision=name).stage for name in ("stage-2", None, first)}
    assert found == {"stage-2": 2, None: 3, first: 6} and hub.repository(REPO, "dataset").private


def test_what_is_no_mask_is_one_clear_line(hub, published, repository):
    config = json.loads(repository["mask_config.json"])

    def refused(repo_id: str, error: type[Exception], said: str, revision: str | None = None, **changes) -> None:
        if changes:
            changed = {"mask_config.json": json.dumps(config | changes).encode()}
            hub.put(repo_id, {**repository, **changed}, "dataset")
        with pytest.raises(error, match=said) as raised:
            KnowledgeMask.from_pretrained(repo_id, revision=revision)
        assert repo_id in one_line(raised) and str(raised.value).isprintable()

    hub.put("me/pictures", {"a.png": b"1"}, "dataset")
    refused(REPO, FileNotFoundError, "revision", "v9")
    refused("me/nothing", FileNotFoundError, "does not exist, or is private")
    refused("me/pictures", FileNotFoundError, "no mask_config.json and no mask.safetensors. Give a folder")
    refused("no/such/folder", FileNotFoundError, "neither a folder nor a repository id")
    refused("me/other-kind", ValueError, "describes no knowledge mask", type="x")
    refused("me/future", ValueError, "format version 7.*Upgrade hf_kcd", format_version=7)
    # Text that drives a terminal.
    for words in ("\x1b[31mred", "bell\x07", "\x9b2J", "del\x7f"):
        for provenance in ({"student": words}, {words: 1}):
            refused("me/odd", ValueError, "mask_config.json holds control characters", provenance=provenance)
    plain = {"student": "net → é", "command": 'hf-kcd distill --run_name "a\nb\t\\u001b"'}
    changed = {"mask_config.json": json.dumps(config | {"provenance": plain}).encode()}
    hub.put("me/plain", {**repository, **changed}, "dataset")
    assert KnowledgeMask.from_pretrained("me/plain").provenance == plain


def test_only_the_mask_is_fetched_from_a_repository(hub, mask, repository, tmp_path):
    more = {"weights.pkl": b"\x80\x04.", "../../mask.safetensors": b"x", "a.py": b"1/0"}
    hub.put("me/odd", repository | more, "dataset")
    assert_equal(KnowledgeMask.from_pretrained("me/odd"), mask)
    fetched = {path.name for path in (tmp_path / "hub_cache").rglob("snapshots/*/**/*") if path.is_file()}
    assert fetched == {"mask.safetensors", "mask_config.json"}


# Without a network: `test_hub_reading.py` and `test_hub_upload.py` break connections and files.


def test_without_a_network_the_cache_serves_if_it_is_whole(hub, published, monkeypatch, tmp_path):
    KnowledgeMask.from_pretrained(REPO)
    requests = len(hub.requests)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert_equal(KnowledgeMask.from_pretrained(REPO), published)
    for use in (published.push_to_hub, lambda repo_id: KnowledgeMask.from_pretrained(repo_id, revision="v9")):
        with pytest.raises(ConnectionError, match="offline") as error:
            use(REPO)
        assert REPO in one_line(error)
    assert len(hub.requests) == requests
    # A damaged cache is called damaged, and mended when there is a network.
    (cached,) = (tmp_path / "hub_cache").rglob("snapshots/*/mask.safetensors")
    cached.resolve().write_bytes(cached.read_bytes()[:-9])
    with pytest.raises(ConnectionError, match="mask.safetensors .*damaged"):
        KnowledgeMask.from_pretrained(REPO)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    assert_equal(KnowledgeMask.from_pretrained(REPO), published)
