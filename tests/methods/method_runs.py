"""Small networks, data and trainings for the tests of methods, and formulas in NumPy that several of them share."""

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
PREPROCESSING = Preprocessing((0.5, 0.45, 0.4), (0.25, 0.2, 0.3), 8, "crop_flip", padding=1)
KCD = KCDConfig(final_ratio=0.5, epochs_per_stage=1)


def network(seed: int, name: str = "cifar_resnet8") -> torch.nn.Module:
    """A network for the images of these runs, with weights from its seed."""
    torch.manual_seed(seed)
    size = {"input_size": (3, PREPROCESSING.size, PREPROCESSING.size)}
    return timm.create_model(name, num_classes=NUM_CLASSES, pretrained_cfg_overlay=size)


def images(training: bool = True) -> KnowledgeDataset:
    """Noisy images whose mean color depends on the class, so that there is something to learn."""
    generator = np.random.default_rng(0)
    labels = generator.integers(NUM_CLASSES, size=NUM_POINTS)
    pixels = generator.integers(0, 150, size=(NUM_POINTS, 8, 8, 3)) + 25 * labels[:, None, None, None]
    names = datasets.ClassLabel(names=[f"c{i}" for i in range(NUM_CLASSES)])
    features = datasets.Features({"image": datasets.Image(), "label": names})
    table = datasets.Dataset.from_dict({"image": list(pixels.astype(np.uint8)), "label": labels}, features)
    return KnowledgeDataset(table, PREPROCESSING, seed=3, training=training)


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


def make(out: Path, method: str, kcd: KCDConfig | None = KCD, callbacks=(), seed=1, **options) -> DistillationTrainer:
    """A trainer of fresh networks: ResNet-8 from another one, or from three for a method of several teachers."""
    student, teachers = network(seed), [network(9 - i) for i in range(3 if method == "dgkd" else 1)]
    torch.manual_seed(seed)
    defaults = {"num_train_epochs": 3, "learning_rate": 0.02, "logging_steps": 1, "save_strategy": "no", "seed": 3}
    quiet = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "per_device_train_batch_size": BATCH}
    config = DistillationConfig(str(out), method=method, **{**defaults, **quiet, **options})
    joined = [*callbacks, KCDTrainerCallback(kcd)] if kcd else list(callbacks)
    return DistillationTrainer(student, teachers, config, images(), images(training=False), callbacks=joined)


def logged(trainer: DistillationTrainer) -> list[dict[str, float]]:
    return [line for line in trainer.state.log_history if "loss" in line]


def outcome(trainer: DistillationTrainer) -> dict[str, torch.Tensor]:
    """What a run ends with, which must not depend on an interruption."""
    tensors = {f"student.{name}": tensor for name, tensor in trainer.student.state_dict().items()}
    tensors |= {f"method.{name}": tensor for name, tensor in trainer.method.state_dict().items()}
    for parameter, state in trainer.optimizer.state_dict()["state"].items():
        tensors[f"momentum.{parameter}"] = state["momentum_buffer"]
    tensors |= {f"record.{name}": tensor for name, tensor in trainer.kcd.condenser.record.state_dict().items()}
    return tensors | {"kept": trainer.knowledge_mask.kept, "perturbation": trainer.knowledge_mask.perturbation}


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """Names of tensors that are not equal to the bit."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.sqrt((rows**2).sum(-1, keepdims=True))


def log_softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    return scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))


def softened(logits: np.ndarray, temperature: float) -> np.ndarray:
    return np.exp(log_softmax(logits, temperature))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    return -log_softmax(logits)[np.arange(len(labels)), labels].mean()


def divergence(student: np.ndarray, teacher_probabilities: np.ndarray, temperature: float) -> float:
    """T^2 KL(teacher || student), from the student's logits and the teacher's softened probabilities."""
    gap = np.log(teacher_probabilities) - log_softmax(student, temperature)
    return temperature**2 * (teacher_probabilities * gap).sum() / len(student)
