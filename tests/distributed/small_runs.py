"""Small trainings that the scripts of this folder share: networks, digits, a configuration."""

from pathlib import Path

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


def config(folder: Path, **options) -> DistillationConfig:
    defaults = {
        "per_device_train_batch_size": 16,
        "logging_steps": 1,
        "save_strategy": "no",
        "seed": 3,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "ddp_backend": "gloo" if torch.distributed.is_torchelastic_launched() else None,
    }
    return DistillationConfig(str(folder), **{**defaults, **options})
