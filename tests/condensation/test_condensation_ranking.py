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


def test_large_rankings_with_ties_are_stable_and_every_input_keeps_its_precision():
    scores = np.random.default_rng(0).integers(0, 50, 100_000).astype(np.float64)
    assert (rank_points(scores).numpy() == np.lexsort((np.arange(len(scores)), -scores))).all()
    for kind in (list, np.array, torch.tensor):
        assert rank_points(kind([1.0, 3.0, 2.0])).tolist() == [1, 2, 0]
    assert rank_points([1.0, 1.0 + 1e-15]).tolist() == [1, 0]


def test_scores_that_cannot_be_ranked_are_refused():
    scores = torch.ones(50)
    scores[[3, 7, 11, 13, 17, 19]] = torch.nan
    with pytest.raises(ValueError, match=r"6 points.*ids 3, 7, 11, 13, 17, …"):
        rank_points(scores)
    with pytest.raises(ValueError, match=r"\[2, 2\]"):
        rank_points(torch.zeros(2, 2))
