"""Distill image classifiers with condensed knowledge: a Trainer for timm teachers and students on `datasets`.

Importing the package registers its networks in timm and opens no connection. What needs transformers is loaded on first
use.
"""

from .condensation import KCDConfig, KnowledgeMask
from .data import KnowledgeDataset
from .models import load_model
from .version import __version__

_TRAINING = ("DistillationConfig", "DistillationTrainer", "KCDTrainerCallback")

__all__ = [
    "DistillationConfig",
    "DistillationTrainer",
    "KCDConfig",
    "KCDTrainerCallback",
    "KnowledgeDataset",
    "KnowledgeMask",
    "__version__",
    "load_model",
]


def __getattr__(name: str):
    if name in _TRAINING:
        from . import training

        return getattr(training, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
