"""Small trainings that the scripts of this folder share: networks, digits, a configuration."""

from pathlib import Path

import numpy as np
import timm
import torch

from hf_kcd import DistillationConfig, KnowledgeDataset
from hf_kcd.data import load_image_data


def network(name: str, seed: int, **options) -> torch.nn.Module:
    """A network for digits, with weights of its seed."""
    torch.manual_seed(seed)
    overlay = {"pretrained_cfg_overlay": {"input_size": (3, 8, 8)}} if name.startswith("cifar_") else {}
    return timm.create_model(name, num_classes=10, **overlay, **options)


def digits(num_points: int, seed: int = 3) -> KnowledgeDataset:
    data = load_image_data("digits")
    return KnowledgeDataset(data.train.select(range(num_points)), data.preprocessing, seed=seed)


def named(part: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy tensors under names that say which part they belong to."""
    return {f"{part}.{name}": tensor.detach().clone() for name, tensor in tensors.items()}


def assert_equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys() and one
    assert not [name for name in one if not np.array_equal(one[name], other[name])]


def config(folder: Path, **options) -> DistillationConfig:
    defaults = {"per_device_train_batch_size": 16, "logging_steps": 1, "save_strategy": "no", "seed": 3}
    defaults |= {"report_to": "none", "disable_tqdm": True, "use_cpu": True}
    backend = "gloo" if torch.distributed.is_torchelastic_launched() else None
    return DistillationConfig(str(folder), **{**defaults, "ddp_backend": backend, **options})
