"""The losses between the points of a batch (SP, RKD, PKT, CC): their formulas, written out in loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_kcd.losses import cc_loss, pkt_loss, rkd_loss, sp_loss


def some(*shapes: tuple, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.normal(size=shape) for shape in shapes]


def rows_of_products(feature: np.ndarray) -> np.ndarray:
    flat = feature.reshape(len(feature), -1)
    products = np.array([[a @ b for b in flat] for a in flat])
    return np.array([row / np.linalg.norm(row) for row in products])


def test_sp():
    s, t = some((5, 4, 8, 8), (5, 7, 2, 2))
    expected = ((rows_of_products(t) - rows_of_products(s)) ** 2).sum() / 5**2
    assert sp_loss(torch.from_numpy(s), torch.from_numpy(t)).item() == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match=r"\[4, 6\].*\[3, 6\]"):
        sp_loss(torch.zeros(4, 6), torch.zeros(3, 6))
    with pytest.raises(ValueError, match="B the same"):
        sp_loss(torch.zeros(4), torch.zeros(4))


def smooth_l1(a: float, b: float) -> float:
    difference = abs(a - b)
    return difference**2 / 2 if difference < 1 else difference - 0.5


def distances(e: np.ndarray) -> np.ndarray:
    d = np.array([[np.linalg.norm(a - b) for b in e] for a in e])
    return d / d[~np.eye(len(e), dtype=bool)].mean()


def angles(e: np.ndarray) -> np.ndarray:
    def direction(a, b):
        length = np.linalg.norm(a - b)
        return (a - b) / length if length else a - b

    return np.array([[[direction(a, b) @ direction(c, b) for c in e] for a in e] for b in e])


@pytest.mark.parametrize("weights", [(), (1.0, 0.0), (0.0, 1.0)])
def test_rkd(weights):
    s, t = some((5, 6), (5, 9))
    s[0] *= 20  # far enough for the linear part of the smooth L1
    distance_weight, angle_weight = weights or (25, 50)
    relations = [(relation(s).flat, relation(t).flat) for relation in (distances, angles)]
    distance, angle = (np.mean(list(map(smooth_l1, *pair))) for pair in relations)
    loss = rkd_loss(torch.from_numpy(s), torch.from_numpy(t), *weights)
    assert loss.item() == pytest.approx(distance_weight * distance + angle_weight * angle, rel=1e-10)


@given(st.integers(0, 100), st.floats(0.01, 100), st.floats(-100, 100))
@settings(max_examples=15, deadline=None)
def test_rkd_sees_only_the_shape_of_the_batch(seed, scale, shift):
    s, t = map(torch.from_numpy, some((6, 4), (6, 7), seed=seed))
    rotation = torch.from_numpy(np.linalg.qr(some((4, 4), seed=seed + 1)[0])[0])
    assert rkd_loss(scale * s @ rotation + shift, t).item() == pytest.approx(rkd_loss(s, t).item(), rel=1e-6)
    assert rkd_loss(scale * s @ rotation + shift, s).item() == pytest.approx(0, abs=1e-9)


def test_rkd_keeps_the_distances_of_near_points_far_from_the_origin():
    # Differences formed from products of the embeddings would be lost to rounding here.
    (near,) = some((6, 4))
    exact = rkd_loss(torch.from_numpy(near), torch.from_numpy(near**2)).item()
    far = torch.from_numpy(near + 1000).float()
    assert rkd_loss(far, torch.from_numpy(near**2)).item() == pytest.approx(exact, rel=1e-2)
    # Two points have one distance, which is its own mean, and only angles of 0 degrees.
    assert rkd_loss(*map(torch.from_numpy, some((2, 6), (2, 9)))).item() == pytest.approx(0, abs=1e-12)


def probabilities(e: np.ndarray) -> np.ndarray:
    similarity = np.array([[(a @ b / np.linalg.norm(a) / np.linalg.norm(b) + 1) / 2 for b in e] for a in e])
    return similarity / similarity.sum(1, keepdims=True)


def test_pkt():
    s, t = some((5, 6), (5, 9))
    p_s, p_t = probabilities(s), probabilities(t)
    expected = (p_t * np.log((p_t + 1e-7) / (p_s + 1e-7))).sum() / 5**2
    assert pkt_loss(torch.from_numpy(s), torch.from_numpy(t)).item() == pytest.approx(expected, rel=1e-10)
    # Opposite embeddings have a probability of 0.
    student = torch.tensor([[1.0, 3.0], [-1.0, -3.0]], requires_grad=True)
    loss = pkt_loss(student, torch.ones(2, 2))
    assert loss.isfinite() and torch.autograd.grad(loss, student)[0].isfinite().all()


def test_cc():
    s, t = some((5, 6), (5, 6))
    distance = np.abs(s - t)
    expected = np.mean([(distance[i] * distance[i + 1]).sum() for i in range(4)])
    assert cc_loss(torch.from_numpy(s), torch.from_numpy(t)).item() == pytest.approx(expected, rel=1e-12)
    # By hand: distances (1, 2), (3, 0), (1, 1): products 3 and 3.
    student = torch.tensor([[1.0, 2.0], [-3.0, 0.0], [1.0, -1.0]])
    assert cc_loss(student, torch.zeros(3, 2)).item() == 3


@pytest.mark.parametrize("loss", [sp_loss, rkd_loss, pkt_loss, cc_loss])
def test_one_point_has_no_relations(loss):
    assert loss(*map(torch.from_numpy, some((1, 6), (1, 6)))).item() == pytest.approx(0, abs=1e-12)
