"""Old names of the preprocessing, which work with a warning for one more version."""

import warnings
from typing import Any

OLD_NAMES = {
    "ImageRecipe": "Preprocessing",
    "CIFAR_RECIPE": "CIFAR_PREPROCESSING",
    "DIGITS_RECIPE": "DIGITS_PREPROCESSING",
    "IMAGENET_RECIPE": "IMAGENET_PREPROCESSING",
    "guess_recipe": "guess_preprocessing",
}


def warn_renamed(old: str, new: str) -> None:
    """Warn, at the caller's caller, that a name has changed."""
    warnings.warn(f"{old} is now {new}; the next version drops the old name.", FutureWarning, stacklevel=3)


def _preprocessing(owner: Any) -> Any:
    warn_renamed(".recipe", ".preprocessing")
    return owner.preprocessing


recipe_attribute = property(_preprocessing)
