"""`hf-kcd recipes`: list the recipes that come with the package, and copy one to edit it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..methods.registry import get_method
from ..reporting import NOTHING, format_table
from ..training import KCDConfig
from .options import CommandParser
from .recipe import PRESETS, RunConfig
from .recipe_folder import find_recipe, recipe_files, shared_folder, with_bases
from .recipe_parser import RecipeParser, field_names

_EPILOG = """examples:
  hf-kcd recipes resnet56                                                   all with this word
  hf-kcd distill --config cifar100/crd/resnet56_resnet20 --teacher_checkpoint FILE --output_dir runs/first
  hf-kcd recipes cifar100/crd/resnet56_resnet20 --copy mine                 a file to edit, and those that it is based on"""
_NUM_POINTS = {"digits": 1_501, "cifar100": 50_000, "imagenet": 1_281_167}
_HEADER = ["recipe", "networks", "method", "data", "epochs", "C"]
_EXPLANATION = """C: the points drawn, as a share of all points in every epoch; in a chain, those of the last student.
Start one with hf-kcd distill --config RECIPE, or hf-kcd train-teacher --config RECIPE for a network alone (method ce)."""


def main(arguments: Sequence[str]) -> None:
    """Run the command with the words behind its name."""
    parser = CommandParser(__doc__, _EPILOG)
    parser.add_argument("word", nargs="?", default="", metavar="WORD", help="list those with this word, or a name")
    parser.add_argument("--copy", metavar="FOLDER", help="copy the recipe of this name into FOLDER")
    options = parser.parse_args(arguments)
    if options.copy is not None:
        if not options.word:
            raise ValueError("--copy needs a name: hf-kcd recipes NAME --copy FOLDER; hf-kcd recipes lists the names.")
        _copy(options.word, Path(options.copy))
        return
    reader = RecipeParser("distill", RunConfig)
    rows = [_row(name, reader.values_of_file(path)) for name, path in recipe_files().items()]
    rows = [row for row in rows if _has(row, options.word)]
    if not rows:
        find_recipe(options.word)  # Raises with the nearest names.
    print(format_table(_HEADER, rows, text_columns=4))
    print(f"\n{_EXPLANATION}\nThe files are in {shared_folder('recipes')}, the pages in {shared_folder('docs')}.")


def _has(row: Sequence[str], word: str) -> bool:
    word = word.removeprefix("recipes/").removesuffix(".yaml").lower()
    return any(word in cell.lower() for cell in row)


def _row(name: str, values: dict[str, Any]) -> list[str]:
    values = {"method": "ce", "condense": False, "preset": "paper", **values}
    networks = [values.get("teacher"), *(values.get("assistants") or []), values["student"]]
    if networks[0] is None:
        networks[0] = "any teacher" if get_method(values["method"]).teacher_reads else None
    chain = " → ".join(network.removeprefix("cifar_") for network in networks if network is not None)
    epochs = int(values["num_train_epochs"])
    return [name, chain, values["method"], values["data"], str(epochs), _cost(values, epochs)]


def _cost(values: dict[str, Any], epochs: int) -> str:
    if not values["condense"]:
        return f"{1:.2%}"
    kcd = PRESETS[values["preset"]](**{key: values[key] for key in field_names(KCDConfig) & values.keys()})
    num_points = values.get("train_points") or _NUM_POINTS.get(values["data"])
    return NOTHING if num_points is None else f"{kcd.schedule(num_points, epochs).relative_cost:.2%}"


def _copy(name: str, folder: Path) -> None:
    """Copy a recipe and the files that it is based on, each under its name."""
    recipes = shared_folder("recipes").resolve()
    path = find_recipe(name).resolve()
    if not path.is_relative_to(recipes):
        raise ValueError(f"{name} is a file of your own: only recipes of the package are copied.")
    targets = {source: folder / source.relative_to(recipes) for source in with_bases(path)}
    for source, target in targets.items():
        if target.exists() and (not target.is_file() or target.read_bytes() != source.read_bytes()):
            raise FileExistsError(f"{target} exists and differs: choose another --copy, or move it away.")
    for source, target in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    first, *bases = targets.values()
    based = f", which is based on {', '.join(map(str, bases))}" if bases else ""
    command = "distill" if "method" in RecipeParser("distill", RunConfig).values_of_file(path) else "train-teacher"
    print(f"Written: {first}{based}.\nStart it with: hf-kcd {command} --config {first} --output_dir runs/first")
