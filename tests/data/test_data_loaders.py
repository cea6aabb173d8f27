"""A real DataLoader over a selection that changes: every kind of worker sees it, and sees the same pixels."""

import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hf_kcd.data import CIFAR_PREPROCESSING, IMAGENET_PREPROCESSING, KnowledgeDataset, Preprocessing, collate

CROP = Preprocessing(CIFAR_PREPROCESSING.mean, CIFAR_PREPROCESSING.std, 12, "crop_flip", padding=2)
CUT = Preprocessing(IMAGENET_PREPROCESSING.mean, IMAGENET_PREPROCESSING.std, 16, "resized_crop_flip")

LOADERS = {
    "no workers": {},
    "two workers": {"num_workers": 2},
    "two persistent forked workers": {
        "num_workers": 2,
        "persistent_workers": True,
        "multiprocessing_context": "fork",
    },
    "two persistent spawned workers": {
        "num_workers": 2,
        "persistent_workers": True,
        "multiprocessing_context": "spawn",
    },
}


def _epoch(loader: DataLoader) -> tuple[list[int], dict[int, np.ndarray]]:
    ids, images = [], {}
    for batch in loader:
        for point, image in zip(batch["point_ids"].tolist(), batch["pixel_values"].numpy(), strict=True):
            ids.append(point)
            images[point] = image.copy()
    return sorted(ids), images


@pytest.mark.parametrize("recipe", [CROP, CUT], ids=["in memory", "decoded in workers"])
@pytest.mark.parametrize("kind", LOADERS)
def test_an_epoch_draws_the_selection_of_now_with_the_pixels_of_now(make_dataset, pixels, kind, recipe):
    def build() -> KnowledgeDataset:
        return KnowledgeDataset(make_dataset(pixels), recipe, memory_budget=2**30 if recipe is CROP else 0)

    data, alone = build(), build()
    loader = DataLoader(data, batch_size=7, shuffle=True, collate_fn=collate, **LOADERS[kind])
    ids, images = _epoch(loader)
    assert ids == list(range(40))

    kept = [31, 4, 8, 15, 16, 23, 39, 2, 0]
    partner, perturbation = [-1, 5, 30, -1, 1, 2, 4, 6, 7], [0, 0.1, 0.3, 0, 0, 0.2, 0.3, 0.05, 0.15]
    for either in (data, alone):
        either.set_epoch(1)
        either.select(kept, partner, perturbation)
        if recipe is CROP:
            either.blend([4, 8], [5, 9], [0.3, 0.3])
    assert len(loader) == 2
    ids, images = _epoch(loader)
    assert ids == sorted(kept)
    expected = alone.__getitems__(list(range(9)))
    for point, image in zip(expected["point_ids"].tolist(), expected["pixel_values"].numpy(), strict=True):
        assert np.array_equal(images[point], image)

    data.select_all()
    ids, _ = _epoch(loader)
    assert ids == list(range(40))


def test_a_spawned_worker_is_sent_handles_and_no_images(make_dataset):
    images = np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), dtype=np.uint8)
    data = KnowledgeDataset(make_dataset(images), CIFAR_PREPROCESSING)
    data.blend(range(100), range(100, 200), [0.3] * 100)
    assert len(ForkingPickler.dumps(data)) < 20_000 < images.nbytes


def test_a_pickled_copy_is_whole(make_dataset, pixels):
    data = KnowledgeDataset(make_dataset(pixels), CROP)
    data.select([3, 9])
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[1]["pixel_values"], data[1]["pixel_values"]) and copy.identity == data.identity
