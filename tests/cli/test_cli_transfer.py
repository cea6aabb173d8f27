"""A network with weights is transferred to other classes and images, whole or its classifier alone, and then teaches."""

import json
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
import yaml
from safetensors.torch import save_model as save_weights
from tiny import QUIET

from hf_kcd import load_model
from hf_kcd.models import ModelSpec, save_model

ONE_EPOCH = [*QUIET, "--num_train_epochs", "1"]


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> tuple[Path, torch.nn.Module]:
    """A cache as a download leaves it, with timm's smallest ResNet of 1,000 classes for images of 160 x 160."""
    torch.manual_seed(5)
    network = timm.create_model("test_resnet").eval()
    cache = tmp_path_factory.mktemp("cache")
    folder, commit = cache / "models--timm--test_resnet.r160_in1k", "0" * 40
    for path in (folder / "refs", snapshot := folder / "snapshots" / commit):
        path.mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    save_weights(network, str(snapshot / "model.safetensors"))
    return cache, network


@pytest.fixture
def offline(published, monkeypatch) -> torch.nn.Module:
    """Only the cache can be reached."""
    cache, network = published
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return network


def test_a_frozen_transfer_trains_the_classifier_alone_on_images_of_the_weights_size(offline, tmp_path, hf_kcd):
    words = ["--network", "test_resnet.r160_in1k", "--new_classifier", "--freeze_backbone"]
    hf_kcd("train-teacher", *ONE_EPOCH, *words, "--output_dir", tmp_path / "teacher")
    config = json.loads((tmp_path / "teacher" / "config.json").read_text())
    assert config["num_classes"] == 10 and config["label_names"] == [str(digit) for digit in range(10)]
    assert config["pretrained_cfg"]["input_size"] == [3, 160, 160]
    assert config["pretrained_cfg"]["mean"] == config["pretrained_cfg"]["std"] == [0.5, 0.5, 0.5]
    trained = load_model(tmp_path / "teacher").state_dict()
    for key, tensor in offline.state_dict().items():
        if not key.startswith("fc."):
            # Statistics of the batch normalizations and their counters are frozen, too.
            assert torch.equal(trained[key], tensor), key
    assert trained["fc.weight"].shape == (10, 96) and trained["fc.weight"].std() > 0

    # It teaches a student with another image size and normalization, and is evaluated on the images it was trained on.
    words = ["--teacher", tmp_path / "teacher", "--student", "cifar_resnet8"]
    hf_kcd("distill", *ONE_EPOCH, *words, "--output_dir", tmp_path / "student")
    assert ModelSpec.of(load_model(tmp_path / "student")).input_size == (3, 8, 8)
    hf_kcd("evaluate", tmp_path / "teacher", "--data", "digits", "--json", tmp_path / "accuracy.json")
    last = json.loads((tmp_path / "teacher" / "results.json").read_text())["accuracy"]["last"]
    assert json.loads((tmp_path / "accuracy.json").read_text())["top1"] == pytest.approx(last["top1"])


def test_a_fine_tuned_transfer_changes_every_weight(offline, tmp_path, hf_kcd):
    save_model(offline, tmp_path / "source")
    words = ["--network", tmp_path / "source", "--new_classifier", "--image_size", "24"]
    hf_kcd("train-teacher", *ONE_EPOCH, *words, "--output_dir", tmp_path / "run")
    trained, before = load_model(tmp_path / "run"), offline.state_dict()
    assert ModelSpec.of(trained).input_size == (3, 24, 24)
    changed = {key for key, tensor in trained.state_dict().items() if tensor.shape != before[key].shape}
    assert changed == {"fc.weight", "fc.bias"}
    for key, tensor in trained.named_parameters():
        assert key in changed or not torch.equal(tensor, before[key]), key
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert recipe["new_classifier"] is True and recipe["image_size"] == 24


def test_a_transfer_that_cannot_be_says_why(offline, tmp_path, refused):
    save_model(offline, tmp_path / "source")

    def line(*words: object) -> str:
        return refused("train-teacher", *ONE_EPOCH, "--network", *words, "--output_dir", tmp_path / "run")

    said = line(tmp_path / "source")
    assert "1000 classes" in said and "--new_classifier" in said
    for option in ("new_classifier", "freeze_backbone"):
        said = line("resnet18", f"--{option}")
        assert option in said and "resnet18 starts without weights" in said
    said = line("test_vit.r160_in1k", "--new_classifier")
    assert "test_vit.r160_in1k" in said and "student_checkpoint" not in said
    said = line("test_vit")
    assert "test_vit" in said and "160" in said and "image_size" in said
    assert not (tmp_path / "run").exists()
