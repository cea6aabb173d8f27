"""Small runs for the tests of methods that change the batch: data, networks, one training, and an interruption."""

from pathlib import Path

import datasets
import numpy as np
import timm
import torch
from transformers import TrainerCallback

import hf_kcd.models  # noqa: F401  (registers the networks)
from hf_kcd import DistillationConfig, DistillationTrainer, KCDConfig, KCDTrainerCallback, KnowledgeDataset
from hf_kcd.data import Preprocessing

NUM_POINTS, NUM_CLASSES, BATCH = 44, 4, 16
RECIPE = Preprocessing((0.5, 0.45, 0.4), (0.25, 0.2, 0.3), 8, "crop_flip", padding=1)
KCD = KCDConfig(final_ratio=0.5, epochs_per_stage=1)
CIFAR_PAIRS = [
    ("wrn_40_2", "wrn_16_2"),
    ("wrn_40_2", "wrn_40_1"),
    ("resnet56", "resnet20"),
    ("resnet110", "resnet20"),
    ("resnet110", "resnet32"),
    ("resnet32x4", "resnet8x4"),
    ("vgg13", "vgg8"),
    ("vgg13", "mobilenetv2_half"),
    ("resnet50", "mobilenetv2_half"),
    ("resnet50", "vgg8"),
    ("resnet32x4", "shufflenetv1"),
    ("resnet32x4", "shufflenetv2"),
    ("wrn_40_2", "shufflenetv1"),
]
"""Teachers and students of both papers' tables, without "cifar_"."""


def network(seed: int, name: str = "cifar_resnet8") -> torch.nn.Module:
    """A network for the images of these runs, with weights of its own seed."""
    torch.manual_seed(seed)
    size = {"input_size": (3, RECIPE.size, RECIPE.size)}
    return timm.create_model(name, num_classes=NUM_CLASSES, pretrained_cfg_overlay=size)


def images() -> KnowledgeDataset:
    """Noisy images whose mean colour goes with the class, so that there is something to learn."""
    generator = np.random.default_rng(0)
    labels = generator.integers(NUM_CLASSES, size=NUM_POINTS)
    pixels = generator.integers(0, 150, size=(NUM_POINTS, 8, 8, 3)) + 25 * labels[:, None, None, None]
    names = datasets.ClassLabel(names=[f"c{i}" for i in range(NUM_CLASSES)])
    features = datasets.Features({"image": datasets.Image(), "label": names})
    table = datasets.Dataset.from_dict({"image": list(pixels.astype(np.uint8)), "label": labels}, features)
    return KnowledgeDataset(table, RECIPE, seed=3)


class Interrupted(Exception):
    """The run was cut off."""


class Interrupt(TrainerCallback):
    """Write a checkpoint after a step and cut the run off at once, as a lost machine does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = state.global_step == self.step

    def on_save(self, args, state, control, **kwargs):
        raise Interrupted


def trained(out: Path, method: str, kcd: KCDConfig | None, callbacks=(), resume=None, seed=1, **options):
    """A trainer of fresh networks (ResNet-8 from WRN-16-2) that has trained."""
    student, teacher = network(seed), network(9, "cifar_wrn_16_2")
    torch.manual_seed(seed)
    defaults = {"num_train_epochs": 3, "learning_rate": 0.02, "logging_steps": 1, "save_strategy": "no", "seed": 3}
    quiet = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "per_device_train_batch_size": BATCH}
    trainer = DistillationTrainer(
        student,
        teacher,
        DistillationConfig(str(out), method=method, **{**defaults, **quiet, **options}),
        images(),
        callbacks=[*callbacks, KCDTrainerCallback(kcd)] if kcd else list(callbacks),
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def outcome(trainer: DistillationTrainer) -> dict[str, torch.Tensor]:
    """What a run ends with that must not depend on an interruption."""
    tensors = {f"student.{name}": tensor for name, tensor in trainer.student.state_dict().items()}
    tensors |= {f"method.{name}": tensor for name, tensor in trainer.method.state_dict().items()}
    for parameter, state in trainer.optimizer.state_dict()["state"].items():
        tensors[f"momentum.{parameter}"] = state["momentum_buffer"]
    if trainer.kcd is not None:
        tensors |= {f"record.{name}": tensor for name, tensor in trainer.kcd.condenser.record.state_dict().items()}
        tensors |= {"kept": trainer.knowledge_mask.kept, "perturbation": trainer.knowledge_mask.perturbation}
    return tensors


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """Names of what is not equal to the bit."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]
