"""Tables whose numbers were computed by hand, and masks compared point by point."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from hf_kcd.reporting import chance_distance, compare_masks, describe_mask, format_table, mask_table, results_table


def cells(table, row):
    return [cell.strip() for cell in table.splitlines()[row].strip("|").split("|")]


def test_hamming_distances_count_points_kept_by_one_mask_alone(make_mask):
    values = [1.0] * 6
    masks = {"a": make_mask([0, 1, 2], values), "b": make_mask([2, 1], values), "c": make_mask([5, 4, 3], values)}
    # {0,1,2} and {1,2} differ in 0; {0,1,2} and {3,4,5} in all six; {1,2} and {3,4,5} in five.
    assert compare_masks(masks).tolist() == [[0, 1, 6], [1, 0, 5], [6, 5, 0]]
    with pytest.raises(ValueError, match="two or more"):
        compare_masks({"a": masks["a"]})
    masks = {"mine": make_mask([0], [1.0, 2.0]), "yours": make_mask([0], [1.0, 2.0, 3.0])}
    with pytest.raises(ValueError, match=r"mine and yours cannot be compared.*(3 points instead of 2|2 .* of 3)"):
        compare_masks(masks)


def test_chance_distance_is_the_mean_over_all_pairs_of_masks(make_mask):
    values = [1.0] * 5
    pairs = itertools.product(itertools.combinations(range(5), 2), itertools.combinations(range(5), 3))
    expected = np.mean([len(set(one) ^ set(other)) for one, other in pairs])
    masks = {"a": make_mask([0, 1], values), "b": make_mask([0, 1, 2], values)}
    assert chance_distance(*masks.values()) == pytest.approx(expected)
    table = mask_table(masks, markdown=True)
    assert cells(table, 2) == ["a", "2 of 5", "–", f"1 ({expected:.0f})"]
    assert cells(table, 3) == ["b", "3 of 5", f"1 ({expected:.0f})", "–"]


def test_results_are_means_and_sample_deviations_over_seeds(make_results):
    runs = enumerate([(72.0, 70.0, 10.0), (73.0, 71.0, 11.0), (74.0, 73.0, 13.0)])
    groups = {
        "KC-KD": [make_results(seed, (1.0, 2.0, best, last), seconds) for seed, (best, last, seconds) in runs],
        "KD": [make_results(cost={"planned": 1.0, "paid": 0.5, "points": 200})],
        "blind": [make_results(accuracy=None)],
        "twice": [make_results(seed=4), make_results(seed=4)],
    }
    table = results_table(groups, markdown=True)
    # Mean of 70, 71, 73 is 71.333; squared deviations 1.778 + 0.111 + 2.778 over n - 1 = 2 give 1.5275.
    assert cells(table, 2) == ["KC-KD", "71.33 ± 1.53", "73.00 ± 1.00", "82.5", "83.0", "11.3", "3"]
    # One run has no spread.
    assert cells(table, 3) == ["KD", "70.00", "71.00", "100.0", "50.0", "8.0", "1"]
    assert cells(table, 4)[1:3] == ["–", "–"]
    # One seed that ran twice is not two seeds.
    assert cells(table, 5)[-1] == "1 (2 runs)"
    for empty in ({}, {"KD": []}):
        with pytest.raises(ValueError, match="at least one run"):
            results_table(empty)


def test_tables_are_aligned_and_pipes_escaped():
    table = format_table(["run", "top-1 %"], [["KD", "9.5"], ["KC-KD, τ", "70.25"]])
    assert table.splitlines() == ["run       top-1 %", "--------  -------", "KD            9.5", "KC-KD, τ    70.25"]
    assert format_table(["run", "x"], [["a|b", "1"]], markdown=True).splitlines()[2] == r"| a\|b | 1 |"


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
    for said in (
        "8 points in 2 classes (cat, dog)",
        "cifar_resnet20 teaching cifar_resnet8 under kd, seed 3",
        "kept       4 (50.0%), discarded 4",
        "mixed      2 of the kept, with 0.00 to 0.15 of a partner",
        "frequency  1 to 3 epochs",
        "fewest: dog 1/4, cat 3/4",
        "most: cat 3/4, dog 1/4",
    ):
        assert said in text
    # Quantiles of 1, 2, 3, 4 and of 0.1, 0.2, 0.3, 0.4 at 5, 25, 50, 75 and 95 %, interpolated between neighbours.
    assert lines["kept"][1:] == ["1.15", "1.75", "2.5", "3.25", "3.85"]
    assert lines["discarded"][1:] == ["0.115", "0.175", "0.25", "0.325", "0.385"]


def test_masks_that_keep_all_or_mix_for_good_are_described_and_other_labels_refused(make_mask):
    mask = make_mask([1, 0], [1.0, 2.0])
    text = describe_mask(mask)
    assert "kept       2 (100.0%), discarded 0" in text and "mixed      none" in text and "per class" not in text
    # Of the two points that were mixed, one had a share of 0.
    history = [(torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([0.0, 0.2]))]
    assert "mixed      1 of the kept, stage after stage" in describe_mask(replace(mask, mixing_history=history))
    with pytest.raises(ValueError, match="labels do not match the mask's data set"):
        describe_mask(make_mask([0, 1], [1.0, 2.0, 3.0], labels=[0, 1, 1]), [1, 1, 0])
