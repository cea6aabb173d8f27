"""`hf-kcd train-teacher`: train a network alone."""

from collections.abc import Sequence

from .recipe import read_recipe
from .run import run


def main(arguments: Sequence[str]) -> None:
    """Run the command with the words behind its name."""
    recipe = read_recipe("train-teacher", arguments, method="ce")
    if recipe.config.teacher is not None:
        raise ValueError("A teacher is trained alone: leave teacher out, or use hf-kcd distill.")
    run(recipe)
