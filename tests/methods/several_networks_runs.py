"""Small runs for the tests of methods with several networks: one training, an evaluation set, and a plain log softmax."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from rebatched_runs import BATCH, KCD, RECIPE, Interrupt, Interrupted, differing, images, network, outcome

from hf_kcd import DistillationConfig, DistillationTrainer, KCDTrainerCallback, KnowledgeDataset
from hf_kcd.models import load_model


def make(out: Path, method: str, condensed: bool = False, callbacks=(), teacher=None, seed=1, **options):
    """A trainer of fresh networks: ResNet-8 from another, or from what is given."""
    student = network(seed)
    teacher = network(9) if teacher is None else teacher
    torch.manual_seed(seed)
    defaults = {"num_train_epochs": 3, "learning_rate": 0.02, "logging_steps": 1, "save_strategy": "no", "seed": 3}
    quiet = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "per_device_train_batch_size": BATCH}
    train = images()
    config = DistillationConfig(str(out), method=method, **{**defaults, **quiet, **options})
    joined = [*callbacks, KCDTrainerCallback(KCD)] if condensed else list(callbacks)
    return DistillationTrainer(student, teacher, config, train, evaluation_set(train), callbacks=joined)


def evaluation_set(train: KnowledgeDataset) -> KnowledgeDataset:
    """The same images, not augmented."""
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=train.class_names)}
    columns = {"image": [train.image(i) for i in range(train.num_points)], "label": train.labels.tolist()}
    table = datasets.Dataset.from_dict(columns, datasets.Features(features))
    return KnowledgeDataset(table, RECIPE, training=False)


def check_resume(folder: Path, method: str, condensed: bool, teacher=None, **options) -> DistillationTrainer:
    """Train once as a whole and once cut off in the second epoch, and check that it made no difference."""
    whole = make(folder / "whole", method, condensed, teacher=teacher, **options)
    whole.train()
    with pytest.raises(Interrupted):
        make(folder / "cut", method, condensed, [Interrupt(4)], teacher, **options).train()
    resumed = make(folder / "cut", method, condensed, teacher=teacher, seed=50, **options)
    resumed.train(resume_from_checkpoint=str(folder / "cut" / "checkpoint-4"))
    assert not differing(outcome(whole), outcome(resumed))
    lines = [line for line in whole.state.log_history if "loss" in line]
    parts = [name for name in lines[0] if name.startswith("loss_")]
    assert parts and all(np.isfinite(line[name]) and line[name] != 0 for line in lines for name in parts)
    return whole


def check_evaluated_and_saved(trainer: DistillationTrainer, folder: Path, names: list[str]) -> None:
    """Check that each network beside the student has its own accuracy and its own folder."""
    assert list(trainer.method.networks()) == names
    metrics = trainer.evaluate()
    trainer.save_model(str(folder))
    trainer.model.eval()
    points = trainer.eval_dataset.__getitems__(range(len(trainer.eval_dataset)))
    pixels, labels = points["pixel_values"], points["labels"]
    for name, own in trainer.method.networks().items():
        with torch.no_grad():
            logits = own(pixels)
            # In another memory format, and so to rounding.
            torch.testing.assert_close(load_model(folder / name).eval()(pixels), logits, rtol=1e-4, atol=1e-4)
        right = (logits.argmax(1) == labels).float().mean().item()
        assert metrics[f"eval_{name}_top1"] == pytest.approx(100 * right, abs=1e-3)


def log_softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    return scaled - np.log(np.exp(scaled).sum(1, keepdims=True))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    return -log_softmax(logits)[np.arange(len(labels)), labels].mean()


def divergence(student: np.ndarray, teacher_probabilities: np.ndarray, temperature: float) -> float:
    """T^2 KL(teacher || student), the student's logits and the teacher's probabilities softened already."""
    gap = np.log(teacher_probabilities) - log_softmax(student, temperature)
    return temperature**2 * (teacher_probabilities * gap).sum() / len(student)


def softened(logits: np.ndarray, temperature: float) -> np.ndarray:
    return np.exp(log_softmax(logits, temperature))
