"""Contrastive representation distillation: its formula, and scores near 0 and far above 1."""

import numpy as np
import pytest
import torch

from hf_kcd.losses import crd_loss


def one_side(scores: np.ndarray, num_points: int) -> float:
    num_negatives = scores.shape[1] - 1
    noise = num_negatives / num_points
    total = 0.0
    for row in scores:
        total -= np.log(row[0] / (row[0] + noise + 1e-7))
        for negative in row[1:]:
            total -= np.log(noise / (negative + noise + 1e-7))
    return total / len(scores)


def test_formula():
    generator = np.random.default_rng(0)
    for num_negatives, num_points in ((1, 1), (8, 50), (64, 50_000)):
        student, teacher = (np.exp(generator.normal(size=(4, num_negatives + 1)) * 2 - 3) for _ in range(2))
        loss = crd_loss(torch.from_numpy(student), torch.from_numpy(teacher), num_points)
        assert loss.item() == pytest.approx(one_side(student, num_points) + one_side(teacher, num_points), rel=1e-9)
    # By hand: K/N = 1, every score 1: ln 2 for the own point and for each of two negatives, on both sides.
    ones = torch.ones(5, 3, dtype=torch.float64)
    assert crd_loss(ones, ones, 2).item() == pytest.approx(6 * np.log(2), abs=1e-6)


def test_both_sides_train_their_projections():
    student, teacher = (torch.full((2, 3), 0.5, requires_grad=True) for _ in range(2))
    crd_loss(student, teacher, 10).backward()
    for scores in (student, teacher):
        assert (scores.grad[:, 0] < 0).all()  # nearer to the own point
        assert (scores.grad[:, 1:] > 0).all()  # further from the others


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_finite_where_scores_underflow_or_are_large(dtype):
    scores = torch.tensor([[0.0, 0.0, 0.0], [6e4, 6e4, 0.0], [0.0, 6e4, 6e4]], dtype=dtype, requires_grad=True)
    loss = crd_loss(scores, scores, 50_000)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, scores)[0].isfinite().all()


def test_what_does_not_fit_is_refused():
    for student, teacher, num_points, message in (
        (1, 1, 10, "K >= 1"),
        (3, 5, 10, r"\[4, 3\].*\[4, 5\]"),
        (3, 3, 0, "num_points is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            crd_loss(torch.ones(4, student), torch.ones(4, teacher), num_points)
