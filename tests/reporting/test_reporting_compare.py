"""Tables whose numbers were computed by hand, and masks compared point by point."""

import itertools

import numpy as np
import pytest

from hf_kcd.reporting import (
    chance_distance,
    compare_masks,
    describe_mask,
    format_table,
    mask_table,
    results_table,
)


def cells(table, row):
    return [cell.strip() for cell in table.splitlines()[row].strip("|").split("|")]


def test_hamming_distances_count_points_kept_by_one_mask_alone(make_mask):
    values = [1.0] * 6
    masks = {"a": make_mask([0, 1, 2], values), "b": make_mask([2, 1], values), "c": make_mask([5, 4, 3], values)}
    # {0,1,2} and {1,2} differ in 0; {0,1,2} and {3,4,5} in all six; {1,2} and {3,4,5} in five.
    assert compare_masks(masks).tolist() == [[0, 1, 6], [1, 0, 5], [6, 5, 0]]


def test_chance_distance_is_the_mean_over_all_pairs_of_masks(make_mask):
    values = [1.0] * 5
    pairs = itertools.product(itertools.combinations(range(5), 2), itertools.combinations(range(5), 3))
    expected = np.mean([len(set(one) ^ set(other)) for one, other in pairs])
    assert chance_distance(make_mask([0, 1], values), make_mask([0, 1, 2], values)) == pytest.approx(expected)


def test_masks_of_different_data_are_not_compared(make_mask):
    masks = {"mine": make_mask([0], [1.0, 2.0]), "yours": make_mask([0], [1.0, 2.0, 3.0])}
    with pytest.raises(
        ValueError, match=r"mine and yours cannot be compared.*3 points instead of 2|2 points instead of 3"
    ):
        compare_masks(masks)


def test_one_mask_is_nothing_to_compare(make_mask):
    with pytest.raises(ValueError, match="two or more"):
        compare_masks({"a": make_mask([0], [1.0])})


def test_mask_table_puts_chance_beside_each_distance(make_mask):
    values = [1.0] * 4
    masks = {"a": make_mask([0, 1], values), "b": make_mask([1, 2], values)}
    table = mask_table(masks, markdown=True)
    # Two of four kept by each: chance finds (2 * 2 + 2 * 2) / 4 = 2.
    assert cells(table, 2) == ["a", "2 of 4", "–", "2 (2)"]
    assert cells(table, 3) == ["b", "2 of 4", "2 (2)", "–"]


def test_results_are_means_and_sample_deviations_over_seeds(make_results):
    groups = {
        "KC-KD": [
            make_results(seed=0, top1=(1.0, 2.0, 72.0, 70.0), seconds=10.0),
            make_results(seed=1, top1=(1.0, 2.0, 73.0, 71.0), seconds=11.0),
            make_results(seed=2, top1=(1.0, 2.0, 74.0, 73.0), seconds=13.0),
        ],
        "KD": [make_results(cost={"planned": 1.0, "paid": 0.5, "points": 200})],
        "blind": [make_results(accuracy=None)],
    }
    table = results_table(groups, markdown=True)
    # Mean of 70, 71, 73 is 71.333; squared deviations 1.778 + 0.111 + 2.778 over n - 1 = 2 give 1.5275.
    assert cells(table, 2) == ["KC-KD", "71.33 ± 1.53", "73.00 ± 1.00", "82.5", "83.0", "11.3", "3"]
    # One run has no spread.
    assert cells(table, 3) == ["KD", "70.00", "71.00", "100.0", "50.0", "8.0", "1"]
    assert cells(table, 4)[1:3] == ["–", "–"]


def test_one_seed_run_twice_is_not_two_seeds(make_results):
    table = results_table({"KD": [make_results(seed=4), make_results(seed=4)]}, markdown=True)
    assert cells(table, 2)[-1] == "1 (2 runs)"


def test_an_empty_table_is_refused():
    with pytest.raises(ValueError, match="at least one run"):
        results_table({})
    with pytest.raises(ValueError, match="at least one run"):
        results_table({"KD": []})


def test_plain_tables_are_aligned():
    table = format_table(["run", "top-1 %"], [["KD", "9.5"], ["KC-KD, τ", "70.25"]])
    assert table.splitlines() == [
        "run       top-1 %",
        "--------  -------",
        "KD            9.5",
        "KC-KD, τ    70.25",
    ]


def test_a_bar_in_a_name_does_not_break_a_markdown_table():
    table = format_table(["run", "x"], [["a|b", "1"]], markdown=True)
    assert table.splitlines()[2] == r"| a\|b | 1 |"


def test_a_mask_is_described_in_numbers(make_mask):
    labels = [0, 0, 0, 0, 1, 1, 1, 1]
    mask = make_mask(
        [0, 1, 2, 4],
        values=[4.0, 3.0, 2.0, 0.1, 1.0, 0.2, 0.3, 0.4],
        frequency=[3, 3, 3, 1, 3, 1, 2, 2],
        stage=2,
        mixing={2: (7, 0.0), 3: (6, 0.15)},
        labels=labels,
    )
    text = describe_mask(mask, labels)
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.startswith("    ")}
    assert "8 points in 2 classes (cat, dog)" in text
    assert "cifar_resnet20 teaching cifar_resnet8 under kd, seed 3" in text
    assert "kept       4 (50.0%), discarded 4" in text
    assert "mixed      2 of the kept, with 0.00 to 0.15 of a partner" in text
    assert "frequency  1 to 3 epochs" in text
    # Quantiles of 1, 2, 3, 4 and of 0.1, 0.2, 0.3, 0.4 at 5, 25, 50, 75 and 95 %, interpolated between neighbours.
    assert lines["kept"][1:] == ["1.15", "1.75", "2.5", "3.25", "3.85"]
    assert lines["discarded"][1:] == ["0.115", "0.175", "0.25", "0.325", "0.385"]
    assert "fewest: dog 1/4, cat 3/4" in text
    assert "most: cat 3/4, dog 1/4" in text


def test_a_mask_that_keeps_and_mixes_all_or_nothing_is_described(make_mask):
    text = describe_mask(make_mask([1, 0], [1.0, 2.0]))
    assert "kept       2 (100.0%), discarded 0" in text
    assert "mixed      none" in text
    assert "per class" not in text


def test_labels_of_another_data_set_are_refused(make_mask):
    mask = make_mask([0, 1], [1.0, 2.0, 3.0], labels=[0, 1, 1])
    with pytest.raises(ValueError, match="not those of the mask's data set"):
        describe_mask(mask, [1, 1, 0])
