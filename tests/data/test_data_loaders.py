"""A real DataLoader over a selection that changes: every kind of worker sees the change, and the same pixels."""

import pickle
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from hf_kcd.data import CIFAR_PREPROCESSING, IMAGENET_PREPROCESSING, KnowledgeDataset, collate

CROP = replace(CIFAR_PREPROCESSING, size=12, padding=2)
CUT = replace(IMAGENET_PREPROCESSING, size=16)

LOADERS = {
    "no workers": {},
    "two workers": {"num_workers": 2},
    "persistent forked": {"num_workers": 2, "persistent_workers": True, "multiprocessing_context": "fork"},
    # One, because a spawned worker imports everything anew.
    "persistent spawned": {"num_workers": 1, "persistent_workers": True, "multiprocessing_context": "spawn"},
}


class Both(Dataset):
    """Two data sets of the same points: one with images in memory, one that decodes them in the workers."""

    def __init__(self, make_dataset, pixels) -> None:
        self.stored = KnowledgeDataset(make_dataset(pixels), CROP)
        self.decoded = KnowledgeDataset(make_dataset(pixels), CUT, memory_budget=0)

    def __len__(self) -> int:
        return len(self.stored)

    def __getitems__(self, positions: list[int]) -> list[dict[str, torch.Tensor]]:
        return [self.stored.__getitems__(positions), self.decoded.__getitems__(positions)]


@pytest.mark.parametrize("kind", LOADERS)
def test_an_epoch_draws_the_current_selection_with_its_current_pixels(make_dataset, pixels, kind):
    live, alone = (Both(make_dataset, pixels) for _ in range(2))
    loader = DataLoader(live, batch_size=7, shuffle=True, collate_fn=collate, **LOADERS[kind])
    ids = [points["point_ids"] for batch in loader for points in batch]
    assert torch.cat(ids).sort().values.tolist() == sorted(2 * list(range(40)))

    kept = [31, 4, 8, 15, 16, 23, 39, 2, 0]
    partner, perturbation = [-1, 5, 30, -1, 1, 2, 4, 6, 7], [0, 0.1, 0.3, 0, 0, 0.2, 0.3, 0.05, 0.15]
    for both in (live, alone):
        for data in (both.stored, both.decoded):
            data.set_epoch(1)
            data.select(kept, partner, perturbation)
        both.stored.blend([4, 8], [5, 9], [0.3, 0.3])
    assert len(loader) == 2
    for found, expected in zip(zip(*loader, strict=True), alone.__getitems__(range(9)), strict=True):
        order = torch.cat([batch["point_ids"] for batch in found]).argsort()
        for name, values in expected.items():
            assert torch.equal(torch.cat([batch[name] for batch in found])[order], values)

    live.stored.select_all()
    live.decoded.select_all()
    assert sum(len(batch[0]["labels"]) for batch in loader) == 40


def test_a_pickled_copy_is_whole_and_a_spawned_worker_receives_no_images(make_dataset):
    images = np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), dtype=np.uint8)
    data = KnowledgeDataset(make_dataset(images), CIFAR_PREPROCESSING)
    data.blend(range(100), range(100, 200), [0.3] * 100)
    assert len(ForkingPickler.dumps(data)) < 20_000 < images.nbytes
    data.select([3, 9])
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[1]["pixel_values"], data[1]["pixel_values"]) and copy.identity == data.identity
