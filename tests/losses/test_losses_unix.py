"""UNIX's mixing weights: the authors' formula, and what base and steepness mean."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_kcd.losses import unix_mask


@given(st.integers(1, 128), st.data(), st.floats(0, 1000), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_formula(num_rows, data, steepness, strength):
    base = data.draw(st.integers(0, num_rows))
    middle = (2 * base - 1) / (2 * num_rows)
    with np.errstate(over="ignore"):
        expected = strength / (1 + np.exp(-steepness * (np.arange(num_rows) / num_rows - middle)))
    mask = unix_mask(num_rows, base, steepness, strength)
    np.testing.assert_allclose(mask, expected, rtol=1e-4, atol=1e-7)
    assert mask.dtype == torch.float32
    assert (mask.diff() >= 0).all()
    # The defaults are those of the authors' runs.
    assert torch.equal(unix_mask(num_rows, base), unix_mask(num_rows, base, 10.0, 1.0))


@pytest.mark.parametrize(
    "arguments", [(0, 0), (64, 65), (64, -1), (64, 32, -1.0), (64, 32, 10.0, 1.5), (64, 32, float("nan"))]
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="Give"):
        unix_mask(*arguments)
