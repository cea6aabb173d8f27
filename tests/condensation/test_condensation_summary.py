"""Partition and perturbation (Eq. 14, 15): by hand, and against a literal loop."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_kcd.condensation import summarize_knowledge

ORDER = torch.tensor([7, 2, 9, 0, 4, 1, 8, 3, 6, 5])


def test_paper_by_hand():
    summary = summarize_knowledge(ORDER, 7)
    assert summary.kept.tolist() == [7, 2, 9, 0, 4, 1, 8]
    assert summary.high.tolist() == [7, 2, 9, 0]
    assert summary.low.tolist() == [4, 1, 8]
    assert summary.discarded.tolist() == [3, 6, 5]
    assert summary.partner.tolist() == [-1, -1, -1, -1, 3, 6, 5]
    assert summary.perturbation.tolist() == pytest.approx([0, 0, 0, 0, 0, 0.1, 0.2])


def test_released_code_by_hand():
    summary = summarize_knowledge(ORDER, 6, partners="newly_discarded", previous_num_kept=8)
    assert summary.low.tolist() == [4, 1]
    assert summary.discarded.tolist() == [8, 3, 6, 5]
    assert summary.partner.tolist() == [-1, -1, -1, -1, 8, 3]
    assert summary.perturbation.tolist() == pytest.approx([0, 0, 0, 0, 0, 0.15])


def test_cifar_partition_of_the_final_stage_has_equal_halves():
    summary = summarize_knowledge(torch.arange(50_000), 35_000)
    assert len(summary.low) == len(summary.discarded) == 15_000
    assert summary.partner[20_000:].tolist() == list(range(35_000, 50_000))
    assert summary.perturbation.max() == pytest.approx(0.3 * 14_999 / 15_000)


def test_fewer_kept_than_discarded_makes_all_kept_points_borderline():
    summary = summarize_knowledge(ORDER, 3)
    assert summary.high.tolist() == []
    assert summary.low.tolist() == [7, 2, 9]
    assert summary.partner.tolist() == [0, 4, 1]


def test_keeping_every_point_mixes_none():
    for options in ({}, {"partners": "newly_discarded", "previous_num_kept": 10}):
        summary = summarize_knowledge(ORDER, 10, **options)
        assert summary.low.tolist() == summary.discarded.tolist() == []
        assert set(summary.partner.tolist()) == {-1}
        assert not summary.perturbation.any()


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
    options = {"partners": "newly_discarded", "previous_num_kept": previous} if newly else {}
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
    assert summary.kept.tolist() == [point for point, _, _ in expected]
    assert summary.partner.tolist() == [partner for _, partner, _ in expected]
    assert summary.perturbation.tolist() == pytest.approx([share for _, _, share in expected])
    assert summary.low.tolist() == order[keep - low_count : keep]
    assert summary.high.tolist() + summary.low.tolist() == summary.kept.tolist()
    assert sorted(summary.kept.tolist() + summary.discarded.tolist()) == list(range(size))
    assert (summary.kept.dtype, summary.partner.dtype) == (torch.int64, torch.int64)
    assert summary.perturbation.dtype == torch.float32


@pytest.mark.parametrize(
    ("order", "options", "message"),
    [
        (torch.tensor([0, 1, 1]), {}, "no permutation"),
        (torch.tensor([1, 2, 3]), {}, "no permutation"),
        (torch.tensor([0, -1, 1]), {}, "no permutation"),
        (torch.tensor([0.0, 1.0, 2.0]), {}, "no permutation"),
        (torch.tensor([[0, 1, 2]]), {}, "no permutation"),
        (torch.tensor([], dtype=torch.int64), {}, "no permutation"),
        (torch.arange(3), {"num_kept": 0}, "num_kept is 0"),
        (torch.arange(3), {"num_kept": 4}, "num_kept is 4"),
        (torch.arange(3), {"max_perturbation": 1.1}, "max_perturbation is 1.1"),
        (torch.arange(3), {"max_perturbation": math.nan}, "max_perturbation is nan"),
        (torch.arange(3), {"augmentation": "adaptiv"}, "Did you mean 'adaptive'"),
        (torch.arange(3), {"partners": "new"}, "Unknown partners 'new'"),
        (torch.arange(3), {"partners": "newly_discarded"}, "previous_num_kept is None"),
        (torch.arange(3), {"partners": "newly_discarded", "previous_num_kept": 1}, "previous_num_kept is 1"),
        (torch.arange(3), {"partners": "newly_discarded", "previous_num_kept": 4}, "previous_num_kept is 4"),
    ],
)
def test_wrong_arguments_are_refused(order, options, message):
    with pytest.raises(ValueError, match=message):
        summarize_knowledge(order, **{"num_kept": 2, **options})
