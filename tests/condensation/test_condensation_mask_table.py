"""A mask as a table of all points, and the labels that it may hold."""

import hashlib
import os
from dataclasses import replace

import datasets
import pytest
import torch
from mask_examples import NUM_POINTS, assert_equal, make_mask
from safetensors.torch import load_file

from hf_kcd.condensation import KnowledgeMask


@pytest.fixture
def labelled(mask, dataset) -> KnowledgeMask:
    return replace(mask, labels=torch.tensor(dataset["label"][:]))


def test_every_row_says_of_its_point_what_the_mask_says(labelled, dataset):
    table = labelled.to_table()
    assert table.column_names == [
        "point",
        "kept",
        "rank",
        "value",
        "frequency",
        "partner",
        "perturbation",
        "label",
    ]
    kept = labelled.kept.tolist()
    assert len(table) == NUM_POINTS
    for point, row in enumerate(table):
        assert row["point"] == point
        assert row["kept"] == (point in kept)
        assert row["value"] == labelled.value[point].item()
        assert row["frequency"] == point
        assert row["label"] == dataset[point]["label"]
        if point in kept:
            place = kept.index(point)
            partner = labelled.partner[place].item()
            assert row["rank"] == place
            assert row["partner"] == (None if partner < 0 else partner)
            assert row["perturbation"] == labelled.perturbation[place].item()
        else:
            assert row["rank"] is None and row["partner"] is None and row["perturbation"] == 0
    assert sum(row is not None for row in table["partner"]) == 9


def test_columns_have_the_types_that_a_viewer_needs(labelled):
    features = labelled.to_table().features
    assert features["label"] == datasets.ClassLabel(names=["cat", "dog", "owl"])
    types = {name: feature.dtype for name, feature in features.items()}
    assert types == {
        "point": "int64",
        "kept": "bool",
        "rank": "int64",
        "value": "float64",
        "frequency": "int64",
        "partner": "int64",
        "perturbation": "float32",
        "label": "int64",
    }


def test_a_mask_without_labels_has_no_column_of_them(mask):
    assert "label" not in mask.to_table().column_names


def test_labels_are_saved_and_come_back(labelled, mask, tmp_path):
    labelled.save_pretrained(tmp_path / "labelled")
    loaded = KnowledgeMask.from_pretrained(tmp_path / "labelled")
    assert_equal(loaded, labelled)
    assert torch.equal(loaded.labels, labelled.labels)
    # Masks of before there were labels have no such tensor, and load.
    mask.save_pretrained(tmp_path / "plain")
    assert "labels" not in load_file(tmp_path / "plain" / "mask.safetensors")
    assert KnowledgeMask.from_pretrained(tmp_path / "plain").labels is None


def test_labels_are_known_by_the_checksum_of_the_identity(identity, dataset):
    # Written out: int64, little-endian, in the data set's order.
    content = b"".join(label.to_bytes(8, "little", signed=True) for label in dataset["label"][:])
    assert hashlib.sha256(content).hexdigest() == identity.labels


def test_equal_masks_give_equal_tables(identity, tmp_path):
    for name in ("first.parquet", "second.parquet"):
        make_mask(identity).to_table().to_parquet(tmp_path / name)
    assert (tmp_path / "first.parquet").read_bytes() == (tmp_path / "second.parquet").read_bytes()
    assert os.path.getsize(tmp_path / "first.parquet") < 20_000
