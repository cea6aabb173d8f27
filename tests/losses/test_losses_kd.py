"""Hinton's loss: its formula, its two scalings, its gradient, and its edges."""

import numpy as np
import pytest
import torch

from hf_kcd.losses import kd_loss


def formula(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    def softmax(logits: np.ndarray) -> np.ndarray:
        powers = np.exp(logits / temperature - (logits / temperature).max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True)

    p_s, p_t = softmax(student), softmax(teacher)
    return temperature**2 * (p_t * np.log(p_t / p_s)).sum() / len(student)


def some_logits(batch: int = 16, classes: int = 100) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.normal(size=(batch, classes)) * 5, generator.normal(size=(batch, classes)) * 5


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_formula(temperature):
    student, teacher = some_logits()
    loss = kd_loss(torch.from_numpy(student), torch.from_numpy(teacher), temperature)
    assert loss.item() == pytest.approx(formula(student, teacher, temperature), rel=1e-12)
    assert loss.dtype == torch.float64


def test_default_temperature_is_the_papers_four():
    student, teacher = map(torch.from_numpy, some_logits())
    assert kd_loss(student, teacher) == kd_loss(student, teacher, 4.0)


def test_mean_is_over_points_and_not_over_classes():
    student, teacher = map(torch.from_numpy, some_logits(batch=4))
    rows = [kd_loss(student[row : row + 1], teacher[row : row + 1]).item() for row in range(4)]
    assert kd_loss(student, teacher).item() == pytest.approx(sum(rows) / 4)
    assert kd_loss(student.repeat(3, 1), teacher.repeat(3, 1)).item() == pytest.approx(sum(rows) / 4)


def test_temperature_squared_keeps_the_gradient():
    student, teacher = map(torch.from_numpy, some_logits())
    student, teacher = 0.01 * student, 0.01 * teacher
    sizes = []
    for temperature in (10.0, 100.0):
        leaf = student.clone().requires_grad_()
        kd_loss(leaf, teacher, temperature).backward()
        sizes.append(leaf.grad.norm().item())
    # Near-equal logits: the gradient is (z_s - z_t centred) / (B C) whatever the temperature.
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-2)


def test_gradient():
    student, teacher = (torch.from_numpy(logits) for logits in some_logits(3, 5))
    assert torch.autograd.gradcheck(lambda leaf: kd_loss(leaf, teacher), student.clone().requires_grad_())
    leaf = student.clone().requires_grad_()
    kd_loss(leaf, teacher, 4.0).backward()
    expected = 4.0 * ((student / 4).softmax(-1) - (teacher / 4).softmax(-1)) / 3
    torch.testing.assert_close(leaf.grad, expected)


def test_teacher_receives_no_gradient():
    student, teacher = (torch.from_numpy(logits).requires_grad_() for logits in some_logits())
    kd_loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_equal_logits_cost_nothing_up_to_a_shift():
    student, _ = some_logits()
    assert kd_loss(torch.from_numpy(student), torch.from_numpy(student + 3.0)).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    student, teacher = (torch.from_numpy(logits).to(dtype) for logits in some_logits())
    loss = kd_loss(student, teacher)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(formula(student.double().numpy(), teacher.double().numpy(), 4.0), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_finite_for_the_largest_logits(dtype, temperature):
    largest = torch.finfo(dtype).max
    student = torch.tensor([[largest, -largest, 0.0]] * 3, dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[-largest, largest, 0.0], [largest, -largest, 0.0], [0.0, 0.0, 0.0]], dtype=dtype)
    loss = kd_loss(student, teacher, temperature)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("shapes", [((4, 10), (4, 100)), ((4, 10), (2, 10)), ((10,), (10,))])
def test_shapes_that_do_not_match_are_refused(shapes):
    with pytest.raises(ValueError, match="same classes"):
        kd_loss(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperature_must_be_above_zero(temperature):
    with pytest.raises(ValueError, match="temperature"):
        kd_loss(torch.zeros(2, 3), torch.zeros(2, 3), temperature)
