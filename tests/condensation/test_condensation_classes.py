"""Classes that a selection leaves without a point are counted, and `min_per_class` keeps the best of each."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mask_examples import make_mask

from hf_kcd.condensation import KCDConfig, KnowledgeCondenser, KnowledgeMask
from hf_kcd.condensation.mask_card import mask_card
from hf_kcd.condensation.ranking import keep_of_each_class
from hf_kcd.reporting import describe_mask

EPOCHS = 6


def by_hand(order: list[int], num_kept: int, labels: list[int], least: int) -> list[int]:
    """The kept points in rank order: first the best of each class, then the best of all, until there are enough."""
    kept = {point for cls in set(labels) for point in [one for one in order if labels[one] == cls][:least]}
    for point in order:
        if len(kept) < num_kept:
            kept.add(point)
    return [point for point in order if point in kept]


@given(st.data())
def test_kept_points_of_each_class_as_by_hand(data):
    labels = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=25))
    order = data.draw(st.permutations(range(len(labels))))
    least = data.draw(st.integers(0, 4))
    needed = sum(min(least, labels.count(cls)) for cls in set(labels))
    num_kept = data.draw(st.integers(max(1, needed), max(needed, len(labels))))
    found = keep_of_each_class(torch.tensor(order), num_kept, torch.tensor(labels), least).tolist()
    kept = by_hand(order, num_kept, labels, least)
    assert found[:num_kept] == kept
    assert found[num_kept:] == [point for point in order if point not in kept]


def condense(config: KCDConfig, labels: list[int], values: np.ndarray):
    """Run a condenser whose points have these values in every epoch; return it and its selections."""
    labels = torch.tensor(labels)
    condenser = KnowledgeCondenser(config, len(labels), EPOCHS, labels=labels)
    # The entropy of two classes falls as their logits part.
    logits = torch.tensor(np.stack([np.zeros(len(values)), 5 - np.asarray(values)], axis=1))
    selections = []
    for _ in range(EPOCHS):
        condenser.observe(torch.arange(len(labels)), logits)
        if (selection := condenser.end_epoch()) is not None:
            selections.append(selection)
    return condenser, selections


# Twelve points of three classes: the least valuable six are those of the last class, and two of the second.
LABELS = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
VALUES = np.arange(12, 0, -1) * 0.3


def test_a_class_of_low_value_keeps_its_share_and_the_total_stays():
    config = KCDConfig(final_ratio=0.5, epochs_per_stage=3)
    free, bound = (condense(KCDConfig(**{**config.to_dict(), "min_per_class": m}), LABELS, VALUES)[1] for m in (0, 2))
    assert [len(selection.points) for selection in free] == [len(selection.points) for selection in bound] == [8, 6]
    assert free[-1].points.tolist() == [0, 1, 2, 3, 4, 5]
    assert bound[-1].points.tolist() == [0, 1, 4, 5, 8, 9]
    # All six are borderline, as six are discarded: each has the next of the discarded ones as its partner.
    assert bound[-1].partner.tolist() == [2, 3, 6, 7, 10, 11]
    # What was free to go to the best of all went to them.
    assert condense(KCDConfig(final_ratio=0.5, epochs_per_stage=3, min_per_class=1), LABELS, VALUES)[1][-1].points.tolist() == [
        0, 1, 2, 3, 4, 8,
    ]  # fmt: skip


def test_more_than_the_last_stage_keeps_is_refused_at_once():
    config = KCDConfig(final_ratio=0.5, epochs_per_stage=3, min_per_class=3)
    with pytest.raises(ValueError, match=r"min_per_class=3 needs 9 points of 3 classes, but a stage keeps 6"):
        KnowledgeCondenser(config, 12, EPOCHS, labels=torch.tensor(LABELS))
    with pytest.raises(ValueError, match="give labels"):
        KnowledgeCondenser(config, 12, EPOCHS)
    for wrong in (-1, 1.5, "two"):
        with pytest.raises(ValueError, match="min_per_class"):
            KCDConfig(min_per_class=wrong)


def test_small_classes_keep_all_they_have():
    config = KCDConfig(final_ratio=0.5, epochs_per_stage=3, min_per_class=2)
    labels = [0] * 11 + [1]
    assert 11 in condense(config, labels, VALUES)[1][-1].points.tolist()


def test_a_mask_counts_the_classes_it_keeps(identity, dataset, tmp_path):
    labels = torch.tensor(dataset["label"])
    whole, owls = make_mask(identity), (labels == 2).nonzero()[:, 0]
    kept = {"kept": owls, "partner": torch.full_like(owls, -1), "perturbation": torch.zeros(len(owls))}
    assert whole.classes is None and whole.description()["classes"] is None
    assert "classes    unknown" in describe_mask(whole)
    mask = replace(whole, labels=labels, **kept)
    mask.save_pretrained(tmp_path)
    read = KnowledgeMask.from_pretrained(tmp_path)
    assert read.classes == (1, 3)
    assert "classes    1 of 3 have a kept point" in describe_mask(read)
    options = {"repo_id": "me/mask", "student_repo": None, "teacher_repo": None, "license": None}
    assert "| Classes | 1 of 3 have a kept point |" in mask_card(read.description(), None, None, [], None, **options)
