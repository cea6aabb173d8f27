"""Masks and the data they are about, for the tests of masks."""

import hashlib
import json
from pathlib import Path

import datasets
import numpy as np
import torch
from safetensors.torch import save_file

from hf_kcd.artifacts.identity import DatasetIdentity
from hf_kcd.condensation import KnowledgeMask, Selection, rank_points, summarize_knowledge

NUM_POINTS = 30
TENSORS = ("kept", "partner", "perturbation", "value", "frequency")


def image_data(num_points: int = NUM_POINTS, seed: int = 0) -> datasets.Dataset:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (num_points, 4, 4, 3), dtype=np.uint8)
    classes = datasets.ClassLabel(names=["cat", "dog", "owl"])
    features = datasets.Features({"image": datasets.Image(), "label": classes})
    labels = generator.integers(0, 3, num_points).tolist()
    return datasets.Dataset.from_dict({"image": list(images), "label": labels}, features=features)


def make_mask(identity: DatasetIdentity, seed: int = 0, history: bool = False) -> KnowledgeMask:
    """Keep 21 of 30 points and mix 9 of them; a history mixes three points twice, one of them with a share of 0."""
    values = torch.from_numpy(np.random.default_rng(seed).exponential(size=NUM_POINTS))
    order = rank_points(values)
    summary = summarize_knowledge(order, 21)
    entries = [Selection(order[15:18], order[18:21], torch.tensor([0.0, 0.1, 0.2]))] * 2
    schedule = {"num_points": NUM_POINTS, "num_epochs": 240, "final_ratio": 0.7, "shape": "exponential"}
    about = {"student": "resnet8x4", "seed": 3, "versions": {"torch": "2"}, "command": ["a"], "note": None}
    mixing = [*entries, Selection(order[:0], order[:0], torch.zeros(0))] if history else []
    parts = (*summary.selection, values, torch.arange(NUM_POINTS))
    return KnowledgeMask(*parts, 6, schedule, identity, about, mixing)


def assert_equal(first: KnowledgeMask, second: KnowledgeMask) -> None:
    for name in TENSORS:
        one, other = getattr(first, name), getattr(second, name)
        assert one.dtype == other.dtype and torch.equal(one, other), name
    for name in ("stage", "schedule", "dataset", "provenance"):
        assert getattr(first, name) == getattr(second, name), name
    assert len(first.mixing_history) == len(second.mixing_history)
    for entry, other in zip(first.mixing_history, second.mixing_history, strict=True):
        assert all(map(torch.equal, entry, other))


def rewrite(folder: Path, tensors: dict | None = None, **changes) -> None:
    """Write a mask as another program might: consistent checksum, other content; "gone" removes a key."""
    if tensors is not None:
        save_file(tensors, folder / "mask.safetensors")
    config = json.loads((folder / "mask_config.json").read_text())
    config["sha256"] = hashlib.sha256((folder / "mask.safetensors").read_bytes()).hexdigest()
    config = {key: value for key, value in (config | changes).items() if value != "gone"}
    (folder / "mask_config.json").write_text(json.dumps(config))
