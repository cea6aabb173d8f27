"""Soft labels beside a mask on the Hub: fetched whole or not at all, used without the teacher by a stranger's process."""

import json
import math
from pathlib import Path

import datasets
import numpy as np
import pytest
import timm
import torch
from hub.local_hub import LocalHub

import hf_kcd
from hf_kcd.condensation import KnowledgeMask
from hf_kcd.data import KnowledgeDataset, SoftLabels, load_image_data
from hf_kcd.training import apply_mask
from hf_kcd.training.soft_labels import make_soft_labels

REPO = "me/digits-mask"


def digits() -> KnowledgeDataset:
    data = load_image_data("digits")
    return KnowledgeDataset(data.train, data.preprocessing, seed=3)


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> tuple[Path, SoftLabels]:
    """A folder as `hf-kcd push --with_soft_labels` uploads it: a mask of 64 digits and a teacher's soft labels of them."""
    datasets.disable_progress_bars()
    folder, dataset = tmp_path_factory.mktemp("published"), digits()
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
    apply_mask(dataset, mask)
    torch.manual_seed(9)
    teacher = timm.create_model("cifar_resnet8", num_classes=10, pretrained_cfg_overlay={"input_size": (3, 8, 8)})
    soft_labels = make_soft_labels(teacher, dataset, num_views=2)
    mask.save_pretrained(folder)
    soft_labels.save(folder)
    return folder, soft_labels


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_they_are_fetched_alone_and_from_the_cache_afterwards(hub: LocalHub, published, monkeypatch):
    folder, made = published
    hub.put(REPO, files(folder), "dataset")
    fetched = SoftLabels.from_pretrained(REPO)
    assert torch.equal(fetched.codes, made.codes) and torch.equal(fetched.points, made.points)
    asked = {request.path.rpartition("/")[2] for request in hub.requests if "/resolve/" in request.path}
    assert asked == {"soft_labels.json", "soft_labels.safetensors"}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert torch.equal(SoftLabels.from_pretrained(REPO).codes, made.codes)


def test_a_mask_without_them_and_broken_ones_are_one_clear_line(hub: LocalHub, published, waits):
    folder, made = published
    hub.put("me/alone", {name: content for name, content in files(folder).items() if "mask" in name}, "dataset")
    with pytest.raises(
        FileNotFoundError, match=r"^me/alone holds no soft labels: .* missing\. Masks come with them when"
    ):
        SoftLabels.from_pretrained("me/alone")
    with pytest.raises(FileNotFoundError, match="does not exist, or is private"):
        SoftLabels.from_pretrained("me/nowhere")

    description = json.loads((folder / "soft_labels.json").read_text())
    other = {**files(folder), "soft_labels.json": json.dumps({**description, "sha256": "0" * 64}).encode()}
    hub.put("me/mixed-up", other, "dataset")
    with pytest.raises(
        ValueError,
        match=r"^me/mixed-up holds no .* soft_labels\.safetensors is not the file that soft_labels\.json describes",
    ):
        SoftLabels.from_pretrained("me/mixed-up")

    named = {**files(folder), "soft_labels.json": json.dumps({**description, "teacher": "\x1b[2Jnet"}).encode()}
    hub.put("me/named", named, "dataset")
    with pytest.raises(ValueError, match=r"soft_labels\.json holds control characters"):
        SoftLabels.from_pretrained("me/named")

    hub.put(REPO, files(folder), "dataset")
    hub.fail(r"GET .*soft_labels\.safetensors", "drop_download", math.inf, after=1000)
    with pytest.raises(ConnectionError) as caught:
        SoftLabels.from_pretrained(REPO)
    assert len(str(caught.value).splitlines()) == 1
    hub.mend()
    assert torch.equal(SoftLabels.from_pretrained(REPO).codes, made.codes)


def test_a_stranger_distils_without_the_teacher(hub: LocalHub, published, run_fresh, tmp_path):
    folder, made = published
    hub.put(REPO, files(folder), "dataset")
    words = ["--data", "digits", "--student", "cifar_resnet8", "--mask", REPO, "--soft_labels", "true"]
    words += ["--num_train_epochs", "3", "--no_plots", "--output_dir", str(tmp_path / "run")]
    done = run_fresh(["-W", "ignore", "-m", "hf_kcd.cli.main", "distill", *words], OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert "from the soft labels of cifar_resnet8" in done.stdout
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["teacher"] == "cifar_resnet8" and results["soft_labels"] == made.description()
    assert results["cost"]["points"] == 3 * 64
    assert np.isfinite(results["history"]["loss"]).all()
    assert hf_kcd.load_model(str(tmp_path / "run")).num_classes == 10

    done = run_fresh(["-m", "hf_kcd.cli.main", "distill", *words[:-1], str(tmp_path / "other")], offline=True)
    assert done.returncode == 2 and not (tmp_path / "other").exists()
    assert [
        line for line in done.stderr.splitlines() if line.startswith("hf-kcd: error: ")
    ] == done.stderr.splitlines()[-1:]
