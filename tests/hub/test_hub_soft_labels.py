"""Soft labels beside a mask on the Hub: fetched whole or not at all, and used by a stranger without the teacher."""

import json

import numpy as np
import pytest
import timm
import torch
from hub.local_hub import LocalHub

import hf_kcd
from hf_kcd.cli.main import main
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
    mask = KnowledgeMask(
        kept=kept,
        partner=torch.where(kept % 20 == 0, -1, kept + 1),
        perturbation=torch.where(kept % 20 == 0, 0.0, 0.25),
        value=torch.zeros(dataset.num_points, dtype=torch.float64),
        frequency=torch.ones(dataset.num_points, dtype=torch.int64),
        stage=1,
        schedule={},
        dataset=dataset.identity,
    )
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
    assert asked == {"soft_labels.json", "soft_labels.safetensors"}
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


def test_a_stranger_distills_without_the_teacher(hub: LocalHub, made, tmp_path, monkeypatch, capsys):
    files, soft_labels = made
    hub.put(REPO, files, "dataset")
    words = ["distill", "--data", "digits", "--student", "cifar_resnet8", "--mask", REPO, "--soft_labels", "true"]
    words += ["--num_train_epochs", "3", "--no_plots", "--output_dir"]
    main([*words, str(tmp_path / "run")])
    assert "from the soft labels of cifar_resnet8" in capsys.readouterr().out
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["teacher"] == "cifar_resnet8" and results["soft_labels"] == soft_labels.description()
    assert results["cost"]["points"] == 3 * 64
    assert np.isfinite(results["history"]["loss"]).all()
    assert hf_kcd.load_model(str(tmp_path / "run")).num_classes == 10

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(SystemExit) as stop:
        main([*words, str(tmp_path / "other")])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and not (tmp_path / "other").exists()
    assert error.startswith("hf-kcd: error: ") and error.count("\n") == 1
