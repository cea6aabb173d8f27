"""KD and CE against float64 NumPy: the weights, the temperature squared, and who gets a gradient."""

import numpy as np
import pytest
import torch

from hf_kcd.methods import create_method
from hf_kcd.models import ModelOutputs, ModelSpec

SPEC = ModelSpec("net", 5, 8, (4,), (1,), (0.5,) * 3, (0.2,) * 3, (3, 8, 8))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def example(seed: int = 0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(7, 5)) * 3, generator.normal(size=(7, 5)) * 3, generator.integers(5, size=7)


@pytest.mark.parametrize("options", [{}, {"ce_weight": 1.0, "kd_weight": 0.4, "temperature": 2.0}])
def test_kd_is_the_weighted_sum_of_the_paper(options):
    ce_weight, kd_weight, temperature = options.get("ce_weight", 0.1), options.get("kd_weight", 0.9), 4.0
    temperature = options.get("temperature", temperature)
    student, teacher, labels = example()
    parts = create_method("kd", SPEC, SPEC, 7, **options)(
        ModelOutputs(logits=torch.tensor(student)),
        ModelOutputs(logits=torch.tensor(teacher)),
        {"labels": torch.tensor(labels)},
    )
    cross_entropy = -log_softmax(student)[np.arange(7), labels].mean()
    soft_student, soft_teacher = log_softmax(student / temperature), log_softmax(teacher / temperature)
    divergence = temperature**2 * (np.exp(soft_teacher) * (soft_teacher - soft_student)).sum() / 7
    assert parts.keys() == {"ce", "kd"}
    assert float(parts["ce"]) == pytest.approx(ce_weight * cross_entropy, rel=1e-6)
    assert float(parts["kd"]) == pytest.approx(kd_weight * divergence, rel=1e-6)


def test_ce_is_the_cross_entropy_alone():
    student, _, labels = example()
    parts = create_method("ce", SPEC, None, 7)(
        ModelOutputs(logits=torch.tensor(student)), None, {"labels": torch.tensor(labels)}
    )
    assert parts.keys() == {"ce"}
    assert float(parts["ce"]) == pytest.approx(-log_softmax(student)[np.arange(7), labels].mean(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_give_finite_losses_and_gradients(dtype):
    student = torch.tensor([[60000.0, -60000.0, 0.0], [3.0, 1.0, 2.0]]).to(dtype).requires_grad_()
    teacher = torch.tensor([[-60000.0, 60000.0, 0.0], [1.0, 2.0, 3.0]]).to(dtype)
    spec = ModelSpec("net", 3, 8, (4,), (1,), (0.5,) * 3, (0.2,) * 3, (3, 8, 8))
    parts = create_method("kd", spec, spec, 2)(
        ModelOutputs(logits=student), ModelOutputs(logits=teacher), {"labels": torch.tensor([2, 0])}
    )
    sum(parts.values()).backward()
    assert all(part.isfinite() for part in parts.values()) and student.grad.isfinite().all()
