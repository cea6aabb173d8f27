"""Ranking (Eq. 13), partition and perturbation (Eq. 14, 15): by hand, and against a literal loop."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_kcd.condensation import rank_points, summarize_knowledge

ORDER = torch.tensor([7, 2, 9, 0, 4, 1, 8, 3, 6, 5])
NEWLY = {"partners": "newly_discarded"}


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


@pytest.mark.parametrize(
    ("num_kept", "options", "high", "low", "discarded", "partners", "shares"),
    [
        (7, {}, [7, 2, 9, 0], [4, 1, 8], [3, 6, 5], [3, 6, 5], [0, 0.1, 0.2]),
        # The released code pairs the newly discarded points alone.
        (6, {**NEWLY, "previous_num_kept": 8}, [7, 2, 9, 0], [4, 1], [8, 3, 6, 5], [8, 3], [0, 0.15]),
        # Fewer points are kept than discarded: all kept points are borderline.
        (3, {}, [], [7, 2, 9], [0, 4, 1, 8, 3, 6, 5], [0, 4, 1], [0, 0.1, 0.2]),
        (10, {}, ORDER.tolist(), [], [], [], []),
        (10, {**NEWLY, "previous_num_kept": 10}, ORDER.tolist(), [], [], [], []),
    ],
)
def test_summary_by_hand(num_kept, options, high, low, discarded, partners, shares):
    summary = summarize_knowledge(ORDER, num_kept, **options)
    assert summary.kept.tolist() == [*high, *low]
    assert (summary.high.tolist(), summary.low.tolist(), summary.discarded.tolist()) == (high, low, discarded)
    assert summary.partner.tolist() == [-1] * len(high) + partners
    assert summary.perturbation.tolist() == pytest.approx([0.0] * len(high) + shares)
    assert all(map(torch.equal, summary.selection, (summary.kept, summary.partner, summary.perturbation)))


def test_the_final_stage_of_cifar_mixes_as_many_points_as_it_discards():
    summary = summarize_knowledge(torch.arange(50_000), 35_000)
    assert summary.partner[20_000:].tolist() == list(range(35_000, 50_000))
    assert summary.perturbation.max() == pytest.approx(0.3 * 14_999 / 15_000)


@given(
    order=st.integers(1, 40).flatmap(lambda size: st.permutations(range(size))),
    data=st.data(),
    augmentation=st.sampled_from(["adaptive", "fixed", "none"]),
    newly=st.booleans(),
    largest=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_literal_loop_agrees(order, data, augmentation, newly, largest):
    size = len(order)
    keep = data.draw(st.integers(1, size))
    previous = data.draw(st.integers(keep, size))
    options = {**NEWLY, "previous_num_kept": previous} if newly else {}
    summary = summarize_knowledge(torch.tensor(order), keep, largest, augmentation, **options)
    low_count = min(keep, (previous if newly else size) - keep)
    partners, shares = [-1] * keep, [0.0] * keep
    for k in range(low_count if augmentation != "none" else 0):
        partners[keep - low_count + k] = order[keep + k]
        shares[keep - low_count + k] = largest * k / low_count if augmentation == "adaptive" else largest
    assert summary.kept.tolist() == order[:keep] and summary.partner.tolist() == partners
    assert summary.perturbation.tolist() == pytest.approx(shares)
    assert summary.low.tolist() == order[keep - low_count : keep]
    assert sorted(summary.kept.tolist() + summary.discarded.tolist()) == list(range(size))


@pytest.mark.parametrize(
    ("order", "options", "message"),
    [
        *(
            ([*order], {}, "not a permutation")
            for order in ([0, 1, 1], [1, 2, 3], [0, -1, 1], [0.0, 1.0], [[0, 1]], [])
        ),
        *(([0, 1, 2], {"num_kept": number}, f"num_kept is {number}") for number in (0, 4)),
        *(([0, 1, 2], {"max_perturbation": share}, f"max_perturbation is {share}") for share in (1.1, math.nan)),
        ([0, 1, 2], {"augmentation": "adaptiv"}, "Did you mean 'adaptive'"),
        ([0, 1, 2], {"partners": "new"}, "Unknown partners 'new'"),
        *(([0, 1, 2], {**NEWLY, "previous_num_kept": n}, f"previous_num_kept is {n}") for n in (None, 1, 4)),
    ],
)
def test_wrong_arguments_are_refused(order, options, message):
    with pytest.raises(ValueError, match=message):
        summarize_knowledge(torch.tensor(order), **{"num_kept": 2, **options})
