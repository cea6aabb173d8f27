"""A network with weights is transferred to other classes and images, whole or its classifier alone, and then teaches."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_model as save_weights

from hf_kcd import load_model
from hf_kcd.models import ModelSpec, save_model

TINY = ["--data", "digits", "--train_points", "120", "--num_train_epochs", "1", "--no_plots", "--seed", "3"]


def hf_kcd(*words: object, code: int = 0, **environment: object) -> str:
    """Run the command line as a process of its own, without the network; give what it says."""
    offline = {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        **{key: str(value) for key, value in environment.items()},
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "hf_kcd.cli.main", *map(str, words)],
        env={**os.environ, **offline},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> tuple[Path, torch.nn.Module]:
    """A cache as a download leaves it, with timm's smallest ResNet of 1,000 classes for images of 160 x 160."""
    torch.manual_seed(5)
    network = timm.create_model("test_resnet").eval()
    cache = tmp_path_factory.mktemp("cache")
    folder = cache / "models--timm--test_resnet.r160_in1k"
    commit = "0" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True)
    save_weights(network, str(folder / "snapshots" / commit / "model.safetensors"))
    return cache, network


def test_a_frozen_transfer_trains_the_classifier_alone_on_images_as_the_weights_know_them(published, tmp_path):
    cache, source = published
    words = ["--network", "test_resnet.r160_in1k", "--new_classifier", "--freeze_backbone"]
    hf_kcd("train-teacher", *TINY, *words, "--output_dir", tmp_path / "teacher", HF_HUB_CACHE=cache)
    config = json.loads((tmp_path / "teacher" / "config.json").read_text())
    assert config["num_classes"] == 10 and config["label_names"] == [str(digit) for digit in range(10)]
    assert config["pretrained_cfg"]["input_size"] == [3, 160, 160]
    assert config["pretrained_cfg"]["mean"] == config["pretrained_cfg"]["std"] == [0.5, 0.5, 0.5]
    trained = load_model(tmp_path / "teacher").state_dict()
    for key, tensor in source.state_dict().items():
        if not key.startswith("fc."):
            # Statistics of the batch normalisations and their counters are frozen, too.
            assert torch.equal(trained[key], tensor), key
    assert trained["fc.weight"].shape == (10, 96) and trained["fc.weight"].std() > 0

    # It teaches a student of another size and normalisation, and evaluates as it was trained.
    words = ["--teacher", tmp_path / "teacher", "--student", "cifar_resnet8"]
    hf_kcd("distill", *TINY, *words, "--output_dir", tmp_path / "student")
    assert ModelSpec.of(load_model(tmp_path / "student")).input_size == (3, 8, 8)
    hf_kcd("evaluate", tmp_path / "teacher", "--data", "digits", "--json", tmp_path / "accuracy.json")
    last = json.loads((tmp_path / "teacher" / "results.json").read_text())["accuracy"]["last"]
    assert json.loads((tmp_path / "accuracy.json").read_text())["top1"] == pytest.approx(last["top1"])


def test_a_fine_tuned_transfer_changes_every_weight(published, tmp_path):
    _, source = published
    save_model(source, tmp_path / "source")
    words = [
        "--network",
        tmp_path / "source",
        "--new_classifier",
        "--image_size",
        "24",
        "--output_dir",
        tmp_path / "run",
    ]
    hf_kcd("train-teacher", *TINY, *words)
    trained = load_model(tmp_path / "run")
    assert ModelSpec.of(trained).input_size == (3, 24, 24)
    before = source.state_dict()
    changed = {key for key, tensor in trained.state_dict().items() if tensor.shape != before[key].shape}
    assert changed == {"fc.weight", "fc.bias"}
    for key, tensor in trained.named_parameters():
        assert key in changed or not torch.equal(tensor, before[key]), key
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert recipe["new_classifier"] is True and recipe["image_size"] == 24


def test_a_transfer_that_cannot_be_says_why(published, tmp_path):
    cache, source = published
    save_model(source, tmp_path / "source")
    out = ["--output_dir", tmp_path / "run"]
    said = hf_kcd("train-teacher", *TINY, "--network", tmp_path / "source", *out, code=2)
    assert "1000 classes" in said and "--new_classifier" in said
    for option in ("--new_classifier", "--freeze_backbone"):
        said = hf_kcd("train-teacher", *TINY, "--network", "resnet18", option, *out, code=2)
        assert option[2:] in said and "resnet18 starts without weights" in said
    missing = ["--network", "test_vit.r160_in1k", "--new_classifier"]
    said = hf_kcd("train-teacher", *TINY, *missing, *out, code=2, HF_HUB_CACHE=cache)
    assert "test_vit.r160_in1k" in said and "student_checkpoint" not in said
    said = hf_kcd("train-teacher", *TINY, "--network", "test_vit", *out, code=2)
    assert "test_vit" in said and "160" in said and "image_size" in said
    assert not (tmp_path / "run").exists()
