"""Soft labels beside a mask on the Hub: fetched whole or not at all, and then from the cache."""

import json

import pytest
import timm
import torch
from hub.local_hub import LocalHub
from hub.published import SOFT_LABEL_FILES

from hf_kcd.condensation import KnowledgeMask
from hf_kcd.data import KnowledgeDataset, SoftLabels, load_image_data
from hf_kcd.training.soft_labels import make_soft_labels

REPO = "me/digits-mask"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[dict[str, bytes], SoftLabels]:
    """The files of a mask of 64 digits and of a teacher's soft labels for them, and these soft labels."""
    folder, data = tmp_path_factory.mktemp("published"), load_image_data("digits")
    dataset = KnowledgeDataset(data.train, data.preprocessing, seed=3)
    kept = torch.arange(0, 640, 10)
    pure, value = kept % 20 == 0, torch.zeros(dataset.num_points, dtype=torch.float64)
    selection = {"kept": kept, "partner": kept.add(1).where(~pure, -1), "perturbation": torch.where(pure, 0.0, 0.25)}
    about = {"stage": 1, "schedule": {}, "dataset": dataset.identity}
    mask = KnowledgeMask(**selection, value=value, frequency=torch.ones_like(value, dtype=torch.int64), **about)
    dataset.apply(mask)
    torch.manual_seed(9)
    teacher = timm.create_model("cifar_resnet8", num_classes=10, pretrained_cfg_overlay={"input_size": (3, 8, 8)})
    soft_labels = make_soft_labels(teacher, dataset, num_views=2)
    mask.save_pretrained(folder)
    soft_labels.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}, soft_labels


def test_they_are_fetched_alone_and_from_the_cache_afterwards(hub: LocalHub, made, monkeypatch):
    files, soft_labels = made
    hub.put(REPO, files, "dataset")
    fetched = SoftLabels.from_pretrained(REPO)
    assert torch.equal(fetched.codes, soft_labels.codes) and torch.equal(fetched.points, soft_labels.points)
    asked = {request.path.rpartition("/")[2] for request in hub.requests if "/resolve/" in request.path}
    assert asked == SOFT_LABEL_FILES
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert torch.equal(SoftLabels.from_pretrained(REPO).codes, soft_labels.codes)


def test_a_mask_without_them_and_broken_ones_are_one_clear_line(hub: LocalHub, made):
    files, _ = made
    description = json.loads(files["soft_labels.json"])

    def refused(repo_id: str, error: type[Exception], message: str, content: dict) -> None:
        hub.put(repo_id, content, "dataset")
        with pytest.raises(error, match=message) as caught:
            SoftLabels.from_pretrained(repo_id)
        assert len(str(caught.value).splitlines()) == 1

    def changed(**changes) -> dict[str, bytes]:
        return {**files, "soft_labels.json": json.dumps(description | changes).encode()}

    alone = {name: content for name, content in files.items() if "mask" in name}
    without = r"^me/alone .* has no soft_labels.json and no soft_labels.safetensors\. A mask has soft labels when"
    refused("me/alone", FileNotFoundError, without, alone)
    mixed_up = r"^me/mixed-up/soft_labels\.safetensors is not the file that soft_labels\.json describes"
    refused("me/mixed-up", ValueError, mixed_up, changed(sha256="0" * 64))
    refused("me/named", ValueError, r"soft_labels\.json holds control characters", changed(teacher="\x1b[2Jnet"))
