"""The knowledge mask: what a user does with it, and what it refuses to be made of."""

import hashlib
import os
from dataclasses import asdict, replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from mask_examples import NUM_POINTS, assert_equal, image_data, make_mask
from safetensors.torch import load_file

from hf_kcd.artifacts.identity import DatasetIdentity
from hf_kcd.condensation import CondensationSchedule, KnowledgeMask, Selection


@pytest.fixture
def labeled(mask, dataset) -> KnowledgeMask:
    return replace(mask, labels=torch.tensor(dataset["label"][:]))


@pytest.mark.parametrize("history", [False, True])
def test_a_mask_comes_back_as_it_was_and_equal_masks_give_equal_bytes(identity, tmp_path, history):
    folder, again = tmp_path / "some" / "folder", tmp_path / "again"
    for path in (folder, again):
        make_mask(identity, history=history).save_pretrained(path)
    assert sorted(os.listdir(folder)) == ["mask.safetensors", "mask_config.json"]
    for path in (folder, str(folder)):
        assert_equal(KnowledgeMask.from_pretrained(path), make_mask(identity, history=history))
    for file in os.listdir(folder):
        assert (folder / file).read_bytes() == (again / file).read_bytes()
    # Saving again replaces the mask and nothing else.
    (folder / "README.md").write_text("mine")
    other = make_mask(identity, seed=1)
    other.save_pretrained(folder)
    assert_equal(KnowledgeMask.from_pretrained(folder), other)
    assert sorted(os.listdir(folder)) == ["README.md", "mask.safetensors", "mask_config.json"]


def test_stages_of_mixing_labels_and_schedule_come_back(labeled, tmp_path):
    schedule = CondensationSchedule(NUM_POINTS, 12, 2, 0.7, batch_size=8)
    # Plain triples are accepted; with more than ten the order is not that of the names.
    entries = [(torch.tensor([stage]), torch.tensor([29]), torch.tensor([0.5])) for stage in range(12)]
    replace(labeled, mixing_history=entries, schedule=asdict(schedule)).save_pretrained(tmp_path / "labeled")
    loaded = KnowledgeMask.from_pretrained(tmp_path / "labeled")
    assert [entry.points.item() for entry in loaded.mixing_history] == list(range(12))
    assert all(isinstance(entry, Selection) for entry in loaded.mixing_history)
    assert torch.equal(loaded.labels, labeled.labels)
    assert CondensationSchedule(**loaded.schedule) == schedule
    # Masks from before there were labels have no such tensor, and load.
    replace(labeled, labels=None).save_pretrained(tmp_path / "plain")
    assert "labels" not in load_file(tmp_path / "plain" / "mask.safetensors")
    assert KnowledgeMask.from_pretrained(tmp_path / "plain").labels is None


def test_select_takes_the_kept_points_in_their_order(mask, dataset):
    selected, kept = mask.select(dataset), sorted(mask.kept.tolist())
    assert len(selected) == 21
    assert selected["label"][:] == [dataset[point]["label"] for point in kept]
    assert (np.asarray(selected[3]["image"]) == np.asarray(dataset[kept[3]]["image"])).all()
    assert mask.kept_mask.tolist() == [point in kept for point in range(NUM_POINTS)]
    assert repr(mask) == "KnowledgeMask(21 of 30 points kept, 9 with a partner, stage 6)"


def test_hamming_distance_counts_differing_labels_and_other_data_is_refused(mask, dataset, identity):
    other = make_mask(identity, 1)
    differing = set(mask.kept.tolist()) ^ set(other.kept.tolist())
    assert mask.hamming_distance(other) == other.hamming_distance(mask) == len(differing) > 0
    assert mask.hamming_distance(mask) == 0
    mask.check(dataset)
    mask.check(identity)
    for other, message in (
        (dataset.select(range(20)), "20 points instead of 30"),
        (dataset.shuffle(seed=1), "another order"),
        (image_data(seed=0).map(lambda row: {"image": row["image"].rotate(90)}), "images differ"),
    ):
        with pytest.raises(ValueError, match=message):
            mask.select(other)
    with pytest.raises(ValueError, match="not about this data set. Classes differ: .*owl.*eel"):
        mask.hamming_distance(replace(mask, dataset=replace(identity, class_names=("cat", "dog", "eel"))))


def test_masks_of_the_same_images_are_compared_with_their_classes_in_another_order(labeled, dataset):
    names = ["owl", "cat", "dog"]
    labels = [names.index(["cat", "dog", "owl"][label]) for label in dataset["label"][:]]
    feature = datasets.ClassLabel(names=names)
    turned = dataset.remove_columns("label").add_column("label", labels, feature=feature)
    identity = DatasetIdentity.of(turned)
    own, other = torch.tensor(labels), replace(make_mask(identity, 1), labels=torch.tensor(labels))
    expected = len(set(labeled.kept.tolist()) ^ set(other.kept.tolist()))
    assert labeled.hamming_distance(other) == other.hamming_distance(labeled) == expected > 0
    # The labels of one of the two are enough.
    assert labeled.hamming_distance(replace(other, labels=None)) == expected
    assert replace(labeled, labels=None).hamming_distance(other) == expected
    labeled.check(turned)
    labeled.check(identity, own)
    with pytest.raises(ValueError, match="another order, and there are no labels to compare"):
        replace(labeled, labels=None).check(identity)
    with pytest.raises(ValueError, match="labels differ"):
        labeled.check(identity, own.roll(1))


def test_a_mask_knows_its_labels_and_does_not_follow_the_training_it_came_from(identity, dataset):
    # The checksum written out: int64, little-endian, in the data set's order.
    content = b"".join(label.to_bytes(8, "little", signed=True) for label in dataset["label"][:])
    assert hashlib.sha256(content).hexdigest() == identity.labels
    value = torch.ones(NUM_POINTS, dtype=torch.float64)
    mask = replace(make_mask(identity), value=value)
    value.zero_()
    assert mask.value.sum() == NUM_POINTS
    with pytest.raises(AttributeError):
        mask.stage = 7


def test_every_row_of_the_table_is_about_its_point(labeled, mask, dataset, tmp_path):
    table = labeled.to_table()
    types = {name: feature.dtype for name, feature in table.features.items()}
    expected = dict.fromkeys(("point", "rank", "frequency", "partner", "label"), "int64")
    assert types == expected | {"kept": "bool", "value": "float64", "perturbation": "float32"}
    assert table.features["label"] == datasets.ClassLabel(names=["cat", "dog", "owl"])
    kept = labeled.kept.tolist()
    for point, row in enumerate(table):
        place = kept.index(point) if point in kept else None
        partner = -1 if place is None else labeled.partner[place].item()
        assert row == {
            "point": point,
            "kept": place is not None,
            "rank": place,
            "value": labeled.value[point].item(),
            "frequency": point,
            "partner": None if partner < 0 else partner,
            "perturbation": 0 if place is None else labeled.perturbation[place].item(),
            "label": dataset[point]["label"],
        }
    assert len(table) == NUM_POINTS and sum(partner is not None for partner in table["partner"]) == 9
    assert "label" not in mask.to_table().column_names
    for name in ("first.parquet", "second.parquet"):
        mask.to_table().to_parquet(tmp_path / name)
    assert (tmp_path / "first.parquet").read_bytes() == (tmp_path / "second.parquet").read_bytes()
    assert os.path.getsize(tmp_path / "first.parquet") < 20_000


ZERO = torch.zeros(1)


def with_entry(name: str, position: int, entry: float):
    return lambda mask: {name: getattr(mask, name).index_fill(0, torch.tensor([position]), entry)}


def with_history(parts):
    return lambda mask: {"mixing_history": [parts(mask.kept)]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mask: {"kept": mask.kept.int()}, "kept is .*int32 instead of .*int64"),
        (lambda mask: {"kept": mask.kept.tolist()}, "kept holds a list"),
        (lambda mask: {"kept": mask.kept[:0], "partner": mask.kept[:0]}, "kept is empty"),
        (lambda mask: {"perturbation": mask.perturbation.double()}, "perturbation is"),
        (lambda mask: {"value": mask.value[1:]}, "value is"),
        (lambda mask: {"value": mask.value.float()}, "value is"),
        (lambda mask: {"frequency": mask.frequency.double()}, "frequency is"),
        (with_entry("kept", 2, 30), "kept holds 30 at position 2 .*: ids run from 0 to 29"),
        (with_entry("partner", 20, 30), "partner holds 30 at"),
        (with_entry("perturbation", 20, -0.1), "perturbation holds -0.1.*shares run"),
        (with_entry("value", 4, float("nan")), "value holds nan at position 4"),
        (with_entry("value", 4, float("inf")), "value holds inf"),
        (with_entry("frequency", 4, -1), "frequency holds -1"),
        (lambda mask: {"stage": -1}, "stage is -1"),
        (lambda mask: {"stage": 1.5}, "stage is 1.5"),
        (lambda mask: {"stage": True}, "stage is True"),
        (lambda mask: {"labels": torch.zeros(NUM_POINTS)}, "labels is .*float32 instead of .*int64"),
        (lambda mask: {"labels": torch.zeros(29, dtype=torch.int64)}, "labels is .29."),
        (lambda mask: {"labels": torch.full((NUM_POINTS,), 3)}, "labels holds 3 at position 0"),
        (lambda mask: {"labels": torch.full((NUM_POINTS,), -1)}, "labels holds -1"),
        (lambda mask: {"labels": torch.zeros(NUM_POINTS, dtype=torch.int64)}, "labels do not match the mask's"),
        (lambda mask: {"schedule": {"sizes": (1, 2)}}, "schedule is not a plain JSON"),
        (lambda mask: {"provenance": {1: "a"}}, "provenance is not a plain JSON"),
        (lambda mask: {"provenance": {"loss": float("nan")}}, "provenance is not a plain JSON"),
        (lambda mask: {"provenance": {"path": Path("x")}}, "provenance is not a plain JSON"),
        (with_history(lambda kept: [kept[:1], kept[1:2]]), "mixing_history.0. has 2 parts"),
        (with_history(lambda kept: [kept[:1], kept[:1], ZERO]), "mixing_history.0.: partner .*its own partner"),
        (with_history(lambda kept: [kept[:1], kept[:1] * 0 - 1, ZERO]), "every point of the history was mixed"),
        (with_history(lambda kept: [kept[:1], kept[1:2], ZERO + 2]), "mixing_history.0.: perturbation holds 2.0"),
        (with_history(lambda kept: [kept.float(), kept[1:2], ZERO]), "mixing_history.0.: points is .*float32"),
    ],
)
def test_parts_that_do_not_fit_are_named(mask, change, message):
    with pytest.raises(ValueError, match=message):
        replace(mask, **change(mask))
