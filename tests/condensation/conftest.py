"""Fixtures of the condensation room: a mask, its data set, and its files."""

from pathlib import Path

import datasets
import pytest
from mask_examples import image_data, make_mask

from hf_kcd.artifacts.identity import DatasetIdentity
from hf_kcd.condensation import KnowledgeMask


@pytest.fixture(scope="session")
def dataset() -> datasets.Dataset:
    return image_data()


@pytest.fixture(scope="session")
def identity(dataset) -> DatasetIdentity:
    return DatasetIdentity.of(dataset)


@pytest.fixture
def mask(identity) -> KnowledgeMask:
    return make_mask(identity)


@pytest.fixture
def saved(mask, tmp_path) -> Path:
    mask.save_pretrained(tmp_path / "mask")
    return tmp_path / "mask"
