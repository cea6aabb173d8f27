"""WCoRD: the dual form on a critic's scores, and the primal form against exact optimal transport."""

from itertools import permutations

import numpy as np
import pytest
import torch

from hf_kcd.losses import wcord_global_loss, wcord_local_loss


def some(batch: int = 5, width: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(batch, width)), generator.normal(size=(batch, width))


def cosine_costs(s: np.ndarray, t: np.ndarray) -> np.ndarray:
    return np.array([[1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in t] for a in s])


def sinkhorn(costs: np.ndarray, regularization: float, num_iterations: int) -> np.ndarray:
    """Textbook form: a kernel, scaled to its marginals in turn."""
    kernel, size = np.exp(-costs / regularization), len(costs)
    v = np.ones(size)
    for _ in range(num_iterations):
        u = 1 / size / (kernel @ v)
        v = 1 / size / (kernel.T @ u)
    return u[:, None] * kernel * v


def test_global_formula():
    (scores, _) = some(4, 9)
    expected = 8 * scores[:, 1:].mean() - scores[:, 0].mean()
    assert wcord_global_loss(torch.from_numpy(scores)).item() == pytest.approx(expected, rel=1e-12)
    weighed = wcord_global_loss(torch.from_numpy(scores), negative_weight=1.0)
    assert weighed.item() == pytest.approx(scores[:, 1:].mean() - scores[:, 0].mean(), rel=1e-12)
    # Its gradient rewards a critic that tells the own point from others.
    scores = torch.zeros(2, 4, requires_grad=True)
    wcord_global_loss(scores).backward()
    torch.testing.assert_close(scores.grad, torch.tensor([[-1.0, 1.0, 1.0, 1.0]] * 2) / 2)
    with pytest.raises(ValueError, match="M at least 1"):
        wcord_global_loss(torch.zeros(4, 1))


@pytest.mark.parametrize(("regularization", "num_iterations"), [(0.05, 50), (0.5, 3)])
def test_local_formula(regularization, num_iterations):
    s, t = some()
    costs = cosine_costs(s, t)
    expected = (sinkhorn(costs, regularization, num_iterations) * costs).sum()
    loss = wcord_local_loss(torch.from_numpy(s), torch.from_numpy(t), regularization, num_iterations)
    assert loss.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_local_comes_near_the_exact_distance(seed):
    # Between batches of equal size the best plan is a permutation: all 120 are tried.
    s, t = some(seed=seed)
    costs = cosine_costs(s, t)
    exact = min(np.mean([costs[i, j] for i, j in enumerate(order)]) for order in permutations(range(5)))
    loss = wcord_local_loss(torch.from_numpy(s), torch.from_numpy(t), 0.005, 2000).item()
    assert loss == pytest.approx(exact, abs=5e-3)
    default = wcord_local_loss(torch.from_numpy(s), torch.from_numpy(t)).item()
    assert exact - 1e-2 < default < exact + 0.1


def test_local_gradient_is_that_of_the_costs_under_the_plan():
    s, t = some()
    plan = torch.from_numpy(sinkhorn(cosine_costs(s, t), 0.05, 50))
    student, teacher = torch.from_numpy(s).requires_grad_(), torch.from_numpy(t)
    costs = 1 - torch.nn.functional.cosine_similarity(student[:, None], teacher[None], dim=-1)
    (expected,) = torch.autograd.grad((plan * costs).sum(), student)
    torch.testing.assert_close(torch.autograd.grad(wcord_local_loss(student, teacher), student)[0], expected)


def test_local_options_out_of_range_are_refused():
    s, t = map(torch.from_numpy, some())
    with pytest.raises(ValueError, match="regularization"):
        wcord_local_loss(s, t, regularization=0)
    with pytest.raises(ValueError, match="num_iterations"):
        wcord_local_loss(s, t, num_iterations=0)
