"""Decoupled knowledge distillation: its formula, how it decomposes Hinton's loss, and its edges."""

import numpy as np
import pytest
import torch
from formulas import softmax
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_kcd.losses import dkd_loss, kd_loss


def formula(student, teacher, labels, alpha, beta, temperature) -> float:
    target_class = other_classes = 0.0
    for s, t, y in zip(student, teacher, labels, strict=True):
        p_s, p_t = softmax(s / temperature), softmax(t / temperature)
        for b_s, b_t in ((p_s[y], p_t[y]), (1 - p_s[y], 1 - p_t[y])):
            target_class += b_t * np.log(b_t / b_s)
        q_s, q_t = softmax(np.delete(s, y) / temperature), softmax(np.delete(t, y) / temperature)
        other_classes += (q_t * np.log(q_t / q_s)).sum()
    return temperature**2 * (alpha * target_class + beta * other_classes) / len(labels)


def some(batch: int = 16, classes: int = 100, seed: int = 0):
    generator = np.random.default_rng(seed)
    logits = (generator.normal(size=(batch, classes)) * 5 for _ in range(2))
    return *map(torch.from_numpy, logits), torch.from_numpy(generator.integers(classes, size=batch))


@pytest.mark.parametrize("alpha, beta, temperature", [(1.0, 8.0, 4.0), (1.0, 0.0, 4.0), (0.0, 1.0, 4.0), (1, 2, 1)])
def test_formula(alpha, beta, temperature):
    student, teacher, labels = some()
    loss = dkd_loss(student, teacher, labels, alpha, beta, temperature)
    expected = formula(student.numpy(), teacher.numpy(), labels.numpy(), alpha, beta, temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-10)
    if (alpha, beta, temperature) == (1.0, 8.0, 4.0):
        assert dkd_loss(student, teacher, labels) == loss


@given(st.integers(0, 1000), st.integers(2, 7), st.sampled_from([1.0, 4.0]))
@settings(max_examples=30, deadline=None)
def test_hintons_loss_is_target_class_plus_the_rest_times_the_teachers_doubt(seed, classes, temperature):
    student, teacher, labels = some(1, classes, seed)
    doubt = 1 - (teacher / temperature).softmax(1)[0, labels[0]].item()
    target, others = (dkd_loss(student, teacher, labels, *w, temperature).item() for w in ((1, 0), (0, 1)))
    assert kd_loss(student, teacher, temperature).item() == pytest.approx(target + doubt * others, abs=1e-9)


def test_two_classes_leave_nckd_nothing():
    student, teacher, labels = some(classes=2)
    assert dkd_loss(student, teacher, labels, alpha=0.0).item() == 0
    assert dkd_loss(student, teacher, labels, 1.0, 8.0).item() == pytest.approx(kd_loss(student, teacher).item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_finite_for_the_largest_logits(dtype):
    largest = torch.finfo(dtype).max
    row = torch.tensor([largest, -largest, 0.0, largest], dtype=dtype)
    student = torch.stack([row.roll(shift) for shift in range(4)]).requires_grad_()
    for teacher in (student.detach().roll(1, 0), student.detach().flip(0), torch.zeros_like(student)):
        for temperature in (0.5, 1.0, 4.0):
            loss = dkd_loss(student, teacher, torch.arange(4), temperature=temperature)
            assert loss.isfinite() and torch.autograd.grad(loss, student)[0].isfinite().all()


def test_student_that_is_certain_of_another_class_is_still_pulled_back():
    # The reference's log of the pair's probability is -inf here, and its gradient NaN.
    student = torch.tensor([[-500.0, 500.0, 0.0]], requires_grad=True)
    dkd_loss(student, torch.tensor([[5.0, 0.0, 0.0]]), torch.tensor([0])).backward()
    assert student.grad[0, 0] < 0 < student.grad[0, 1]


def test_what_does_not_fit_is_refused():
    for student, teacher, rows, temperature, message in (
        (1, 1, 2, 4.0, "one class"),
        (4, 4, 3, 4.0, r"\[3\].*\[2\]"),
        (4, 5, 2, 4.0, "same classes"),
        (4, 4, 2, 0.0, "temperature"),
    ):
        with pytest.raises(ValueError, match=message):
            labels = torch.zeros(rows, dtype=torch.int64)
            dkd_loss(torch.zeros(2, student), torch.zeros(2, teacher), labels, temperature=temperature)
