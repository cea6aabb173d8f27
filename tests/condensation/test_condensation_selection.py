"""`Selection`: built from lists, arrays and tensors, put in order, and every entry that does not fit is named."""

import numpy as np
import pytest
import torch

from hf_kcd.condensation import Selection


def assert_equal(selection: Selection, points, partner, perturbation) -> None:
    assert [tensor.dtype for tensor in selection] == [torch.int64, torch.int64, torch.float32]
    assert selection.points.tolist() == points and selection.partner.tolist() == partner
    assert selection.perturbation.tolist() == pytest.approx(perturbation)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_a_selection_is_built_ordered_and_reduced_to_what_is_mixed(kind):
    selection = Selection.of(kind([4, 1, 3]), kind([-1, 0, 2]), kind([0.0, 0.5, 0.25]))
    selection.check(5)
    assert_equal(selection, [4, 1, 3], [-1, 0, 2], [0, 0.5, 0.25])
    assert selection.is_mixed.tolist() == [False, True, True]
    assert_equal(selection.by_id(), [1, 3, 4], [0, 2, -1], [0.5, 0.25, 0])
    assert_equal(selection.mixed(), [1, 3], [0, 2], [0.5, 0.25])
    assert_equal(Selection.of(kind([2, 0])), [2, 0], [-1, -1], [0, 0])
    assert_equal(Selection.of([]), [], [], [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0],), r"points is torch.float32 of shape \[2\]. Give a list of integer ids"),
        (([True, False],), "points is torch.bool"),
        (([[1, 2]],), r"points is torch.int64 of shape \[1, 2\]"),
        (([1, 2], [0.5, 0.5], [0.0, 0.0]), "partner is torch.float32"),
        (([1, 2], [-1, -1]), "give both, or neither"),
        (([1, 2], None, [0.0, 0.0]), "give both, or neither"),
        (([1, 2], [-1], [0.0, 0.0]), r"partner is \[1\] torch.int64 instead of \[2\]"),
        (([1, 2], [-1, -1], [0.0]), r"perturbation is \[1\] torch.float32 instead of \[2\]"),
        (([1, -2],), "points holds -2 at position 1 .*ids run from 0 to 4"),
        (([5, 6],), r"points holds 5 at position 0 \(2 such entries\)"),
        (([3, 1, 3],), "points holds 3 more than once"),
        (([1, 2], [-2, -1], [0.0, 0.0]), "partner holds -2 .*-1 means none"),
        (([1, 2], [-1, 5], [0.0, 0.1]), "partner holds 5 at position 1"),
        (([1, 2], [-1, 2], [0.0, 0.1]), "partner holds 2 .*its own partner"),
        (([1, 2], [0, 0], [0.1, 1.1]), "perturbation holds 1.1.*shares run from 0"),
        (([1, 2], [0, 0], [0.1, -0.1]), "perturbation holds -0.1"),
        (([1, 2], [0, 0], [0.1, float("nan")]), "perturbation holds nan"),
        (([1, 2], [-1, 0], [0.1, 0.1]), "perturbation holds 0.1.* a point without a partner has the share 0"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        Selection.of(*arguments).check(5)


def test_a_selection_of_other_types_is_refused():
    points = torch.tensor([1, 2])
    with pytest.raises(ValueError, match="kept is .*torch.int32 instead of .*torch.int64"):
        Selection(points.int(), torch.full((2,), -1), torch.zeros(2)).check(5, name="kept")
    with pytest.raises(ValueError, match="perturbation is .*float64"):
        Selection(points, torch.full((2,), -1), torch.zeros(2).double()).check(5)
