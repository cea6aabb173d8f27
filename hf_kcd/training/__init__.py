"""Configs, `DistillationTrainer`, `KCDTrainerCallback`, and learning rates in epochs."""

from .callback import KCDTrainerCallback, apply_mask
from .config import DistillationConfig, KCDConfig
from .trainer import DistillationTrainer

__all__ = [
    "DistillationConfig",
    "DistillationTrainer",
    "KCDConfig",
    "KCDTrainerCallback",
    "apply_mask",
]
