"""The knowledge data set, its augmentation, and where data comes from."""

from typing import Any

from .knowledge_dataset import KnowledgeDataset, collate
from .preprocessing import (
    CIFAR_PREPROCESSING,
    DIGITS_PREPROCESSING,
    IMAGENET_PREPROCESSING,
    Preprocessing,
    guess_preprocessing,
)
from .renamed import OLD_NAMES, warn_renamed
from .soft_labels import SoftLabels
from .sources import ImageData, first_points, load_image_data

__all__ = [
    "CIFAR_PREPROCESSING",
    "DIGITS_PREPROCESSING",
    "IMAGENET_PREPROCESSING",
    "ImageData",
    "KnowledgeDataset",
    "Preprocessing",
    "SoftLabels",
    "collate",
    "first_points",
    "guess_preprocessing",
    "load_image_data",
]


def __getattr__(name: str) -> Any:
    if name not in OLD_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warn_renamed(name, OLD_NAMES[name])
    return globals()[OLD_NAMES[name]]
