"""The folder of a run: the names of its files, and reading what a finished run wrote."""

from pathlib import Path
from typing import Any

import yaml

from .results import Results, read_results

RESULTS_NAME = "results.json"
RECIPE_NAME = "recipe.yaml"
MASK_FOLDER = "mask"
STAGES_FOLDER = "stages"
_PICTURES = ("plots/curves.png", "plots/most_valuable.png", "plots/least_valuable.png")


def read_run(run_folder: str | Path) -> tuple[Results, dict[str, Any] | None]:
    """Read what a card is made from.

    Args:
        run_folder: The folder of a finished run.

    Returns:
        Its results, and its recipe; None where it has none.

    Raises:
        FileNotFoundError: When there are no results.
        ValueError: When a file is damaged.
    """
    run_folder = Path(run_folder)
    results, recipe = read_results(run_folder / RESULTS_NAME), None
    if (run_folder / RECIPE_NAME).is_file():
        try:
            recipe = yaml.safe_load((run_folder / RECIPE_NAME).read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{run_folder / RECIPE_NAME} is no YAML file: {error}") from error
        names = ("data", "student", "teacher", "mask")
        fits = isinstance(recipe, dict) and all(isinstance(key, str) for key in recipe)
        if not fits or not all(isinstance(recipe.get(name), str | None) for name in names):
            raise ValueError(
                f"{run_folder / RECIPE_NAME} holds no options of a run: write one 'option: value' a line."
            )
    return results, recipe


def pictures_of(run_folder: str | Path) -> list[str]:
    """Name the pictures of a run that a card shows: its curves and contact sheets, where they were drawn."""
    return [name for name in _PICTURES if (Path(run_folder) / name).is_file()]
