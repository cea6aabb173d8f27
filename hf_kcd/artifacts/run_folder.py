"""The folder of a run: the names of its files, and reading them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from .results import Results, read_results

RESULTS_NAME = "results.json"
RECIPE_NAME = "recipe.yaml"
MASK_FOLDER = "mask"
STAGES_FOLDER = "stages"
WEIGHTS = ("config.json", "model.safetensors")
# How transformers prepares images, where the trainer had an image processor.
PROCESSOR_NAME = "preprocessor_config.json"
STUDENT_PICTURES = ("curves", "most_valuable", "least_valuable")


def read_run(run_folder: str | Path) -> tuple[Results, dict[str, Any] | None]:
    """Read results and recipe (None without one) of a finished run; raises as `read_results`, and for a broken recipe."""
    results, path = read_results(Path(run_folder) / RESULTS_NAME), Path(run_folder) / RECIPE_NAME
    if not path.is_file():
        return results, None
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a YAML file: {error}") from error
    names = ("data", "student", "teacher", "mask")
    fits = isinstance(recipe, dict) and all(isinstance(key, str) for key in recipe)
    if not fits or not all(isinstance(recipe.get(name), str | None) for name in names):
        raise ValueError(f"{path} holds no options of a run: write one 'option: value' a line.")
    return results, recipe


def weights_of(folder: str | Path) -> list[str]:
    """List the files of a network that was saved: configuration, weights and, if it has one, its image processor."""
    return [*WEIGHTS, *([PROCESSOR_NAME] if (Path(folder) / PROCESSOR_NAME).is_file() else ())]


def pictures_of(run_folder: str | Path, names: Iterable[str] = STUDENT_PICTURES) -> list[str]:
    """List those of the named pictures that a run has, such as "plots/curves.png"; by default for the student's card."""
    files = (f"plots/{name}.png" for name in names)
    return [file for file in files if (Path(run_folder) / file).is_file()]
