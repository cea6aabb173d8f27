"""The knowledge dataset, its augmentation, and where data comes from."""

from .knowledge_dataset import KnowledgeDataset, collate
from .recipes import CIFAR_RECIPE, DIGITS_RECIPE, IMAGENET_RECIPE, ImageRecipe, guess_recipe
from .soft_labels import SoftLabels
from .sources import ImageData, load_image_data

__all__ = [
    "CIFAR_RECIPE",
    "DIGITS_RECIPE",
    "IMAGENET_RECIPE",
    "ImageData",
    "ImageRecipe",
    "KnowledgeDataset",
    "SoftLabels",
    "collate",
    "guess_recipe",
    "load_image_data",
]
