"""The knowledge mask: what a user does with it, and what it refuses to be made of."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mask_examples import NUM_POINTS, assert_equal, image_data, make_mask

from hf_kcd.condensation import CondensationSchedule, KnowledgeMask

# What a user does with it.


@pytest.mark.parametrize("history", [False, True])
def test_a_mask_comes_back_as_it_was(identity, tmp_path, history):
    mask = make_mask(identity, history=history)
    mask.save_pretrained(tmp_path / "some" / "folder")
    assert sorted(os.listdir(tmp_path / "some" / "folder")) == ["mask.safetensors", "mask_config.json"]
    assert_equal(KnowledgeMask.from_pretrained(tmp_path / "some" / "folder"), mask)
    assert_equal(KnowledgeMask.from_pretrained(str(tmp_path / "some" / "folder")), mask)


def test_ten_stages_of_mixing_come_back_in_order(identity, tmp_path):
    mask = make_mask(identity)
    entries = [(torch.tensor([stage]), torch.tensor([29]), torch.tensor([0.5])) for stage in range(12)]
    replace(mask, mixing_history=entries).save_pretrained(tmp_path)
    loaded = KnowledgeMask.from_pretrained(tmp_path)
    assert [entry[0].item() for entry in loaded.mixing_history] == list(range(12))


def test_the_schedule_that_made_it_can_be_built_again(identity, tmp_path):
    from dataclasses import asdict

    schedule = CondensationSchedule(NUM_POINTS, 12, 2, 0.7, batch_size=8)
    replace(make_mask(identity), schedule=asdict(schedule)).save_pretrained(tmp_path)
    assert CondensationSchedule(**KnowledgeMask.from_pretrained(tmp_path).schedule) == schedule


def test_equal_masks_give_equal_bytes(identity, tmp_path):
    for name in ("first", "second"):
        make_mask(identity, history=True).save_pretrained(tmp_path / name)
    for file in os.listdir(tmp_path / "first"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_saving_again_replaces_the_mask_and_nothing_else(identity, saved):
    (saved / "README.md").write_text("mine")
    other = make_mask(identity, seed=1)
    other.save_pretrained(saved)
    assert_equal(KnowledgeMask.from_pretrained(saved), other)
    assert sorted(os.listdir(saved)) == ["README.md", "mask.safetensors", "mask_config.json"]


def test_select_takes_the_kept_points_in_their_order(mask, dataset):
    selected = mask.select(dataset)
    kept = sorted(mask.kept.tolist())
    assert len(selected) == 21
    assert selected["label"][:] == [dataset[point]["label"] for point in kept]
    assert (np.asarray(selected[3]["image"]) == np.asarray(dataset[kept[3]]["image"])).all()


def test_other_data_is_refused(mask, dataset, identity):
    mask.check(dataset)
    mask.check(identity)
    with pytest.raises(ValueError, match="20 points instead of 30"):
        mask.select(dataset.select(range(20)))
    with pytest.raises(ValueError, match="another order"):
        mask.select(dataset.shuffle(seed=1))
    with pytest.raises(ValueError, match="images differ"):
        mask.select(image_data(seed=0).map(lambda row: {"image": row["image"].rotate(90)}))
    with pytest.raises(ValueError, match="classes differ"):
        mask.check(replace(identity, class_names=("cat", "dog", "eel")))


def test_hamming_distance_counts_differing_labels(identity):
    first, second = make_mask(identity, 0), make_mask(identity, 1)
    one, other = set(first.kept.tolist()), set(second.kept.tolist())
    assert len(one ^ other) > 0
    assert first.hamming_distance(second) == second.hamming_distance(first) == len(one ^ other)
    assert first.hamming_distance(first) == 0
    with pytest.raises(ValueError, match="not about this data set"):
        first.hamming_distance(replace(second, dataset=replace(identity, labels="other")))


def test_kept_mask_is_the_value_label(mask):
    kept = set(mask.kept.tolist())
    assert mask.kept_mask.tolist() == [point in kept for point in range(NUM_POINTS)]
    assert mask.num_points == NUM_POINTS


def test_repr_is_one_short_line(mask):
    assert repr(mask) == "KnowledgeMask(21 of 30 points kept, 9 with a partner, stage 6)"


def test_a_mask_does_not_follow_the_training_it_came_from(identity):
    value = torch.ones(NUM_POINTS, dtype=torch.float64)
    mask = replace(make_mask(identity), value=value)
    value.zero_()
    assert mask.value.sum() == NUM_POINTS
    with pytest.raises(AttributeError):
        mask.stage = 7


# What it refuses.


def with_entry(name: str, position: int, entry: float):
    def change(mask: KnowledgeMask) -> dict:
        tensor = getattr(mask, name).clone()
        tensor[position] = entry
        return {name: tensor}

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mask: {"kept": mask.kept.int()}, "kept is .*int32 instead of .*int64"),
        (lambda mask: {"kept": mask.kept[:, None]}, "kept is"),
        (lambda mask: {"kept": mask.kept.tolist()}, "kept holds a list"),
        (lambda mask: {"kept": mask.kept[:0], "partner": mask.kept[:0]}, "kept is empty"),
        (lambda mask: {"partner": mask.partner[1:]}, "partner is"),
        (lambda mask: {"perturbation": mask.perturbation.double()}, "perturbation is"),
        (lambda mask: {"value": mask.value[1:]}, "value is"),
        (lambda mask: {"value": mask.value.float()}, "value is"),
        (lambda mask: {"frequency": mask.frequency.double()}, "frequency is"),
        (with_entry("kept", 2, 30), "kept is no id of 30 points at position 2"),
        (with_entry("kept", 2, -1), "kept is no id"),
        (lambda mask: {"kept": torch.cat([mask.kept[:-1], mask.kept[:1]])}, "kept holds point .* more than once"),
        (with_entry("partner", -1, 30), "partner is neither"),
        (with_entry("partner", -1, -2), "partner is neither"),
        (lambda mask: {"partner": mask.kept.clone()}, "partner is the point itself"),
        (with_entry("perturbation", -1, 1.1), "perturbation is no share"),
        (with_entry("perturbation", -1, -0.1), "perturbation is no share"),
        (with_entry("perturbation", -1, float("nan")), "perturbation is no share"),
        (with_entry("perturbation", 0, 0.1), "above 0 without a partner"),
        (with_entry("value", 4, float("nan")), "value is not finite at position 4"),
        (with_entry("value", 4, float("inf")), "value is not finite"),
        (with_entry("frequency", 4, -1), "frequency is negative"),
        (lambda mask: {"stage": -1}, "stage is -1"),
        (lambda mask: {"stage": 1.5}, "stage is 1.5"),
        (lambda mask: {"stage": True}, "stage is True"),
        (lambda mask: {"labels": torch.zeros(NUM_POINTS)}, "labels is .*float32 instead of .*int64"),
        (lambda mask: {"labels": torch.zeros(29, dtype=torch.int64)}, "labels is .29."),
        (lambda mask: {"labels": torch.full((NUM_POINTS,), 3)}, "labels is no id of 3 classes at position 0"),
        (lambda mask: {"labels": torch.full((NUM_POINTS,), -1)}, "labels is no id of 3 classes"),
        (lambda mask: {"labels": torch.zeros(NUM_POINTS, dtype=torch.int64)}, "labels are not those of the data set"),
        (lambda mask: {"schedule": {"sizes": (1, 2)}}, "schedule is no plain JSON"),
        (lambda mask: {"schedule": None}, "schedule is no plain JSON"),
        (lambda mask: {"provenance": {1: "a"}}, "provenance is no plain JSON"),
        (lambda mask: {"provenance": {"loss": float("nan")}}, "provenance is no plain JSON"),
        (lambda mask: {"provenance": {"path": Path("x")}}, "provenance is no plain JSON"),
        (lambda mask: {"mixing_history": [(mask.kept[:1], mask.kept[1:2])]}, "mixing_history.0. has 2 parts"),
        (lambda mask: {"mixing_history": [(mask.kept[:1], mask.kept[:1], torch.zeros(1))]}, "the point itself"),
        (lambda mask: {"mixing_history": [(mask.kept[:1], mask.kept[:1] * 0 - 1, torch.zeros(1))]}, "is missing"),
        (lambda mask: {"mixing_history": [(mask.kept[:1], mask.kept[1:2], torch.ones(1) * 2)]}, "is no share"),
    ],
)
def test_parts_that_do_not_fit_are_named(mask, change, message):
    with pytest.raises(ValueError, match=message):
        replace(mask, **change(mask))
