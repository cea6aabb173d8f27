"""Cross-entropy: its formula, and the precision it is computed in."""

import numpy as np
import pytest
import torch

from hf_kcd.losses import cross_entropy_loss


def test_formula_in_double_precision():
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(16, 100)) * 5, generator.integers(100, size=16)
    powers = np.exp(logits)
    expected = -np.log(powers[np.arange(16), labels] / powers.sum(1)).mean()
    loss = cross_entropy_loss(torch.from_numpy(logits), torch.from_numpy(labels))
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions_are_summed_in_float32(dtype):
    # 0.1 times 1,000 classes: in half precision log-sum-exp would be off in the second digit.
    logits = torch.full((4, 1000), 0.1, dtype=dtype)
    loss = cross_entropy_loss(logits, torch.zeros(4, dtype=torch.int64))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(np.log(1000), abs=1e-5)
