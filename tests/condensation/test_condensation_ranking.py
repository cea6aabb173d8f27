"""Ranking: the most valuable first, the same on every machine, and never with NaN."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_kcd.condensation import rank_points


@given(st.lists(st.sampled_from([-1.5, 0.0, -0.0, 1e-300, 2.0, float("inf"), -float("inf")]), max_size=60))
def test_order_is_descending_with_ties_by_id(scores):
    expected = sorted(range(len(scores)), key=lambda point: (-scores[point], point))
    assert rank_points(scores).tolist() == expected


def test_large_rankings_with_many_ties_are_stable():
    scores = np.random.default_rng(0).integers(0, 50, 100_000).astype(np.float64)
    assert (rank_points(scores).numpy() == np.lexsort((np.arange(len(scores)), -scores))).all()


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_lists_arrays_and_tensors_rank_alike(kind):
    order = rank_points(kind([1.0, 3.0, 2.0]))
    assert order.tolist() == [1, 2, 0]
    assert order.dtype == torch.int64


def test_lists_keep_their_double_precision():
    assert rank_points([1.0, 1.0 + 1e-15]).tolist() == [1, 0]


def test_nan_has_no_rank():
    scores = torch.ones(50)
    scores[[3, 7, 11, 13, 17, 19]] = torch.nan
    with pytest.raises(ValueError, match=r"6 points.*ids 3, 7, 11, 13, 17, …"):
        rank_points(scores)


def test_scores_are_one_number_per_point():
    with pytest.raises(ValueError, match=r"\[2, 2\]"):
        rank_points(torch.zeros(2, 2))
