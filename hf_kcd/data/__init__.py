"""The knowledge dataset, its augmentation, and where data comes from."""

from hf_kcd.data.knowledge_dataset import KnowledgeDataset, collate
from hf_kcd.data.recipes import CIFAR_RECIPE, DIGITS_RECIPE, IMAGENET_RECIPE, ImageRecipe, guess_recipe
from hf_kcd.data.sources import ImageData, load_image_data

__all__ = [
    "CIFAR_RECIPE",
    "DIGITS_RECIPE",
    "IMAGENET_RECIPE",
    "ImageData",
    "ImageRecipe",
    "KnowledgeDataset",
    "collate",
    "guess_recipe",
    "load_image_data",
]
