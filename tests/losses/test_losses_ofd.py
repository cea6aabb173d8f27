"""The overhaul of feature distillation: the partial distance and the margins of batch norm."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import norm

from hf_kcd.losses import ofd_loss, ofd_margins

SHAPES = [(3, 4, 8, 8), (3, 5, 4, 4), (3, 6, 2, 2)]


def test_formula():
    generator = np.random.default_rng(0)
    student, teacher = ([generator.normal(size=shape) for shape in SHAPES] for _ in range(2))
    margins = [-generator.uniform(0.2, 1, size=shape[1]) for shape in SHAPES]
    expected = 0.0
    for stage, (source, target, margin) in enumerate(zip(student, teacher, margins, strict=True)):
        cost = 0.0
        for index in np.ndindex(source.shape):
            s, t, m = source[index], target[index], margin[index[1]]
            if t <= m and s > m:
                cost += (s - m) ** 2
            if m < t <= 0 and s > t:
                cost += (s - t) ** 2
            if t > 0:
                cost += (s - t) ** 2
        expected += cost / len(source) / 2 ** (len(SHAPES) - 1 - stage)
    loss = ofd_loss(*([torch.from_numpy(a) for a in arrays] for arrays in (student, teacher, margins)))
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_the_larger_map_is_pooled():
    student, teacher = torch.zeros(1, 1, 1, 1), torch.tensor([[[[1.0, 3.0]]]])
    assert ofd_loss([student], [teacher], [torch.tensor([-1.0])]).item() == 4


def test_margins():
    for mean, deviation in product([-50.0, -3.0, -0.1, 0.0, 0.5, 3.0, 3.2, 40.0], [0.1, -1.0, 7.0]):
        weight, bias = (torch.tensor([value], dtype=torch.float64) for value in (deviation, mean))
        s, below = abs(deviation), norm.cdf(-mean / abs(deviation))
        expected = mean - s * norm.pdf(mean / s) / below if below > 0.001 else -3 * s
        assert ofd_margins(weight, bias).item() == pytest.approx(expected, rel=1e-9)
    # It is the mean of what ReLU cuts off.
    samples = np.random.default_rng(0).normal(0.4, 0.9, size=500_000)
    margin = ofd_margins(torch.tensor([0.9]), torch.tensor([0.4])).item()
    assert margin == pytest.approx(samples[samples < 0].mean(), abs=5e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_margins_are_finite_and_not_positive_for_every_batch_norm(dtype):
    weight = torch.tensor([0.0, 1e-7, 1.0, -1.0, 100.0], dtype=dtype)
    bias = torch.tensor([-1e4, -1.0, 0.0, 1.0, 1e4], dtype=dtype)
    margins = ofd_margins(weight.repeat_interleave(5), bias.repeat(5))
    assert margins.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert margins.isfinite().all() and (margins <= 0).all()
    assert not ofd_margins(weight.requires_grad_(), bias).requires_grad


def test_margins_that_do_not_fit_are_refused():
    maps = [torch.zeros(2, 4, 8, 8), torch.zeros(2, 6, 4, 4)]
    for margins in ([torch.zeros(4)], [torch.zeros(4), torch.zeros(5)], [torch.zeros(1, 4, 1, 1), torch.zeros(6)]):
        with pytest.raises(ValueError, match="one margin per channel"):
            ofd_loss(maps, maps, margins)
