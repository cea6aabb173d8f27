"""The recipes that come with the package: where they lie, and how one is found by its name."""

from pathlib import Path

import yaml

from ..errors import near_names

_SUFFIX = ".yaml"


def shared_folder(name: str) -> Path:
    """Find the folder "recipes", "model_cards" or "docs": in the package of a wheel, beside the package of a clone."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "_shared" / name
    folder = inside if inside.is_dir() else package.parent / name
    if not folder.is_dir():
        raise FileNotFoundError(f"hf_kcd was installed without its {name} ({inside} is missing): install it again.")
    return folder


def recipe_files() -> dict[str, Path]:
    """Map the names of all recipes, such as "cifar100/crd/resnet56_resnet20", to their files."""
    folder = shared_folder("recipes")
    files = sorted(folder.rglob(f"*{_SUFFIX}"))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}


def find_recipe(word: str) -> Path:
    """Find a file by its path, or a recipe of the package by its name, each with or without ".yaml"; a file wins."""
    for path in (Path(word), Path(f"{word}{_SUFFIX}")):
        if path.is_file():
            return path
    if Path(word).is_dir():
        raise IsADirectoryError(f"{word} is a folder: give a YAML file in it, such as the recipe.yaml of a run.")
    # "recipes/" is how the files are called in a clone.
    name, recipes = word.removeprefix("recipes/").removesuffix(_SUFFIX), recipe_files()
    if name not in recipes:
        nearest = near_names(name, recipes) or near_names(name.rpartition("/")[2], recipes)
        hint = f"Did you mean {' or '.join(nearest)}? " if nearest else ""
        raise FileNotFoundError(
            f"There is no file {word}, and no recipe of that name. {hint}hf-kcd recipes lists all."
        )
    return recipes[name]


def with_bases(path: Path) -> list[Path]:
    """Return a recipe's file and those that it is based on."""
    files = [path]
    while base := yaml.safe_load(files[-1].read_text(encoding="utf-8")).get("base"):
        files.append((files[-1].parent / base).resolve())
    return files
