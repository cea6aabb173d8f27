"""A student that is saved and loaded elsewhere gives the same logits, however it was made; others are refused at the start."""

import json
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import EVAL, RECIPE, TRAIN, make_trainer, network, run_training

from hf_kcd import KnowledgeDataset, load_model
from hf_kcd.methods import DistillationMethod, register_method

# Plain timm and transformers, in a process that has never heard of this package.
ELSEWHERE = """
import sys, timm, torch
from pathlib import Path
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification

for folder in map(Path, sys.argv[1:]):
    expected = load_file(folder / "expected.safetensors")
    from_timm = timm.create_model(f"local-dir:{folder}", pretrained=True)
    from_transformers = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).timm_model
    for network in (from_timm, from_transformers):
        with torch.no_grad():
            logits = network.eval()(expected["images"])
        torch.testing.assert_close(logits, expected["logits"], rtol=1e-4, atol=1e-5, msg=lambda m: f"{folder} {m}")
    for data in (
        timm.data.resolve_data_config({}, pretrained_cfg=from_timm.pretrained_cfg, use_test_size=True),
        AutoImageProcessor.from_pretrained(folder).data_config,
    ):
        assert tuple(data["input_size"]) == tuple(expected["images"].shape[1:]), (folder, data)
        assert list(data["mean"]) == [0.5, 0.45, 0.4] and list(data["std"]) == [0.25, 0.2, 0.3], (folder, data)
        assert data["crop_pct"] == 1.0, (folder, data)
assert not any(name.split(".")[0] == "hf_kcd" for name in sys.modules)
"""


def new_head() -> torch.nn.Module:
    student = network(name="test_resnet", num_classes=7)
    student.reset_classifier(4)
    return student


def frozen_parts() -> torch.nn.Module:
    student = network(name="test_resnet")
    student.layer1.requires_grad_(False)
    return student


VIT = {"name": "vit_tiny_patch16_224", "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
# How a student is made, the size of its images, and further options of the run.
STUDENTS = {
    "a_new_head": (new_head, 8, {}),
    "another_head_and_pooling": (lambda: network(name="test_vit3", global_pool="avg", img_size=32), 32, {}),
    "other_widths": (lambda: network(name="resnet10t", channels=(8, 16, 16, 16), stem_width=8, drop_rate=0.3), 8, {}),
    "another_size": (lambda: network(**VIT, img_size=8), 8, {}),
    "frozen_parts": (frozen_parts, 8, {}),
    "half_precision": (lambda: network(name="test_resnet").bfloat16(), 32, {"bf16": True}),
    "tied_weights": (lambda: network(name="coat_lite_tiny", img_size=32), 32, {"per_device_eval_batch_size": 8}),
    "checkpointed": (lambda: network(name="test_resnet"), 8, {"gradient_checkpointing": True}),
    "weights_of_another_test_size": (lambda: network(name="resnet18", channels=(8, 8, 8, 8), stem_width=8), 8, {}),
}


def test_students_however_made_are_the_same_elsewhere(tmp_path):
    folders = []
    for name, (make, size, options) in STUDENTS.items():
        data = KnowledgeDataset(TRAIN.select(range(32)), RECIPE.for_network(size), seed=3)
        options = {"num_train_epochs": 1, "lr_decay_epochs": [], "learning_rate": 0.01, **options}
        trainer = run_training(
            tmp_path / name, method="ce", model=make(), train_dataset=data, save_strategy="epoch", **options
        )
        trainer.save_model(str(tmp_path / name))
        images = torch.randn(3, 3, size, size)
        with torch.no_grad():
            logits = trainer.student.float().eval()(images)
        for folder in (tmp_path / name, tmp_path / name / "checkpoint-2"):
            save_file({"images": images, "logits": logits}, folder / "expected.safetensors")
            folders.append(folder)
            with torch.no_grad():
                torch.testing.assert_close(load_model(folder).eval()(images), logits, rtol=1e-4, atol=1e-5)
    found = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *map(str, folders)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr[-3000:]


class Wrapped(torch.nn.Module):
    """A network under another module, as people add a normalization or an augmentation."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.pretrained_cfg, self.num_classes, self.num_features = inner.pretrained_cfg, 4, inner.num_features

    def forward(self, images):
        return self.inner(images)


def replaced(name: str, module: torch.nn.Module) -> torch.nn.Module:
    student = network(name="test_resnet")
    student.set_submodule(name, module)
    return student


def unregistered() -> torch.nn.Module:
    student = network(name="test_resnet")
    student.pretrained_cfg["architecture"] = "nobody_knows_it"
    return student


@pytest.mark.parametrize(
    ("make", "difference"),
    [
        (lambda: Wrapped(network(name="test_resnet")), "it has bn1.bias, which is missing here"),
        (
            lambda: replaced("fc", torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(96, 4))),
            r"it has no fc.1.bias",
        ),
        (lambda: replaced("fc", torch.nn.Linear(96, 4, bias=False)), "it has fc.bias, which is missing here"),
        (lambda: replaced("layer4.0.conv2", torch.nn.Conv2d(96, 96, 1, bias=False)), r"its layer4.*instead of \["),
        (lambda: replaced("act1", torch.nn.GELU()), "with the same tensors, its logits are others"),
        (unregistered, "nobody_knows_it"),
    ],
    ids=["wrapped", "head", "bias", "layer", "activation", "unregistered"],
)
def test_a_student_that_nobody_could_load_is_refused_before_the_training(tmp_path, make, difference):
    with pytest.raises(ValueError, match=rf"Nobody could load this \w+ once it is saved.*{difference}"):
        make_trainer(tmp_path / "run", model=make(), method="ce")
    assert not (tmp_path / "run").exists()


def test_a_compiled_student_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(ValueError, match="compiled: give its _orig_mod, and set torch_compile=True"):
        make_trainer(tmp_path, model=torch.compile(network()))


@pytest.mark.parametrize(("dtype", "options"), [("bfloat16", {}), ("float16", {"bf16": True})])
def test_a_student_of_half_precision_is_refused_where_gradients_are_not(tmp_path, dtype, options):
    with pytest.raises(ValueError, match=f"weights of torch.{dtype}.*call student.float"):
        make_trainer(tmp_path, model=network().to(getattr(torch, dtype)), **options)


@register_method("test_tied")
class Tied(DistillationMethod):
    """Cross-entropy, and two layers that share their weight."""

    def __init__(self, student, teacher, num_points):
        super().__init__(student, teacher, num_points)
        self.one, self.other = torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4, bias=False)
        self.other.weight = self.one.weight

    def forward(self, student, teacher, batch):
        logits = self.other(self.one(student.logits))
        return {"ce": torch.nn.functional.cross_entropy(logits, batch["labels"])}


def test_tied_weights_of_a_method_are_resumed(tmp_path):
    options = {"method": "test_tied", "num_train_epochs": 2, "lr_decay_epochs": [], "save_strategy": "epoch"}
    whole = run_training(tmp_path / "whole", **options)
    saved = load_file(tmp_path / "whole" / "checkpoint-6" / "method.safetensors")
    assert torch.equal(saved["one.weight"], saved["other.weight"])
    resumed = make_trainer(tmp_path / "resumed", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))
    assert resumed.method.one.weight is resumed.method.other.weight
    assert torch.equal(resumed.method.one.weight, whole.method.one.weight)


def trained_elsewhere() -> torch.nn.Module:
    """A student whose weights know images of 16 x 16 with other statistics."""
    torch.manual_seed(0)
    student = timm.create_model("cifar_resnet8", num_classes=4)
    student.pretrained_cfg.update(input_size=(3, 16, 16), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    with torch.no_grad():
        student.bn1.weight.uniform_(0.5, 1.5)
    return student


def test_a_student_with_weights_is_shown_the_images_that_it_knows(tmp_path):
    sets = {"train_dataset": TRAIN, "eval_dataset": EVAL, "method": "ce"}
    trainer = make_trainer(tmp_path, model=trained_elsewhere(), **sets)
    for data in (trainer.train_dataset, trainer.eval_dataset):
        assert (data.preprocessing.network_size, data.mean, data.std) == (16, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
        assert data[0]["pixel_values"].shape == (3, 16, 16)
    # The command line makes the same choice for a folder.
    folder = tmp_path / "student"
    trainer.save_model(str(folder))
    assert json.loads((folder / "config.json").read_text())["pretrained_cfg"]["input_size"] == [3, 16, 16]
    by_name = make_trainer(tmp_path, model=str(folder), **sets)
    assert by_name.train_dataset.preprocessing == trainer.train_dataset.preprocessing
    assert make_trainer(tmp_path, **sets).train_dataset.preprocessing.network_size == 8


def test_what_people_choose_for_a_student_with_weights_is_kept_and_named(tmp_path, capture_log):
    trainer = make_trainer(tmp_path, model=trained_elsewhere(), method="ce")
    assert trainer.train_dataset.preprocessing == RECIPE
    assert "learned from images of 16 x 16, mean 0.1, 0.2, 0.3" in capture_log.text
    assert "shows it 8 x 8, mean 0.5, 0.45, 0.4" in capture_log.text


def test_a_file_of_weights_knows_no_images(tmp_path):
    torch.save(trained_elsewhere().state_dict(), tmp_path / "weights.pth")
    student = load_model("cifar_resnet8", checkpoint=tmp_path / "weights.pth")
    trainer = make_trainer(tmp_path, model=student, train_dataset=TRAIN, method="ce")
    assert trainer.train_dataset.preprocessing.network_size == 8
