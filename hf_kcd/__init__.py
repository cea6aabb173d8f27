"""Distil image classifiers with condensed knowledge: a Trainer for timm teachers and students on datasets.

Importing the package registers its networks in timm and touches no network. What needs transformers is loaded when it is
first asked for.
"""

from typing import TYPE_CHECKING

from .condensation import KnowledgeMask
from .data import KnowledgeDataset
from .models import load_model
from .version import __version__

if TYPE_CHECKING:
    from .training import DistillationConfig, DistillationTrainer, KCDConfig, KCDTrainerCallback

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

_TRAINING = ("DistillationConfig", "DistillationTrainer", "KCDConfig", "KCDTrainerCallback")


def __getattr__(name: str):
    if name in _TRAINING:
        from . import training

        return getattr(training, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
