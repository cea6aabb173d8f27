"""The knowledge dataset, its augmentation, and where data comes from."""

from .knowledge_dataset import KnowledgeDataset, collate
from .preprocessing import (
    CIFAR_PREPROCESSING,
    DIGITS_PREPROCESSING,
    IMAGENET_PREPROCESSING,
    Preprocessing,
    guess_preprocessing,
)
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
