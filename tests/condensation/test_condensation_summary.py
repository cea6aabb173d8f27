"""Partition and perturbation (Eq. 14, 15): by hand, and against a literal loop."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_kcd.condensation import summarize_knowledge

ORDER = torch.tensor([7, 2, 9, 0, 4, 1, 8, 3, 6, 5])
NEWLY = {"partners": "newly_discarded"}


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
    expected = []
    for rank in range(keep):
        k = rank - (keep - low_count)
        if k < 0 or augmentation == "none":
            expected.append((order[rank], -1, 0.0))
        else:
            share = largest * k / low_count if augmentation == "adaptive" else largest
            expected.append((order[rank], order[keep + k], share))
    points, partners, shares = zip(*expected, strict=True)
    assert tuple(summary.kept.tolist()) == points and tuple(summary.partner.tolist()) == partners
    assert summary.perturbation.tolist() == pytest.approx(shares)
    assert summary.low.tolist() == order[keep - low_count : keep]
    assert sorted(summary.kept.tolist() + summary.discarded.tolist()) == list(range(size))


@pytest.mark.parametrize(
    ("order", "options", "message"),
    [
        *(
            (torch.tensor(order), {}, "no permutation")
            for order in ([0, 1, 1], [1, 2, 3], [0, -1, 1], [0.0, 1.0, 2.0], [[0, 1, 2]], [])
        ),
        (torch.arange(3), {"num_kept": 0}, "num_kept is 0"),
        (torch.arange(3), {"num_kept": 4}, "num_kept is 4"),
        (torch.arange(3), {"max_perturbation": 1.1}, "max_perturbation is 1.1"),
        (torch.arange(3), {"max_perturbation": math.nan}, "max_perturbation is nan"),
        (torch.arange(3), {"augmentation": "adaptiv"}, "Did you mean 'adaptive'"),
        (torch.arange(3), {"partners": "new"}, "Unknown partners 'new'"),
        (torch.arange(3), NEWLY, "previous_num_kept is None"),
        (torch.arange(3), {**NEWLY, "previous_num_kept": 1}, "previous_num_kept is 1"),
        (torch.arange(3), {**NEWLY, "previous_num_kept": 4}, "previous_num_kept is 4"),
    ],
)
def test_wrong_arguments_are_refused(order, options, message):
    with pytest.raises(ValueError, match=message):
        summarize_knowledge(order, **{"num_kept": 2, **options})
