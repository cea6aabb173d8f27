"""The options that name a data set, its splits and its columns, shared by every command that loads one."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ..data import ImageData, load_image_data


def option(default: Any, help: str, *aliases: str) -> Any:
    """Make the field of an option, with its help and its other spellings."""
    return field(default=default, metadata={"help": help, "aliases": list(aliases)})


@dataclass
class DataConfig:
    """A data set, its splits, and its columns."""

    data: str = option("digits", "Data set: digits, cifar100, imagenet, a folder, or a Hub id such as user/name.")
    data_dir: str | None = option(None, "Folder that holds the data set already; nothing is downloaded then.")
    train_split: str | None = option(None, "Split to train on; 'train' by default.")
    eval_split: str | None = option(None, "Split to evaluate on; found by its name by default.")
    image_column: str | None = option(None, "Column with the images; found by its type by default.")
    label_column: str | None = option(None, "Column with the labels; found by its type by default.")

    @property
    def columns(self) -> dict[str, str | None]:
        """Names of the columns as keyword arguments."""
        return {"image_column": self.image_column, "label_column": self.label_column}

    def load(self) -> ImageData:
        """Load the data set."""
        splits = {"train_split": self.train_split, "eval_split": self.eval_split}
        return load_image_data(self.data, self.data_dir, **splits, **self.columns)


def add_data_options(parser: argparse.ArgumentParser, recipe: bool = False) -> None:
    """Add the options of `DataConfig`; with `recipe`, they go before those of a run's recipe, and none is required."""
    group = parser.add_argument_group("data" if not recipe else "data, where it is not as the run's recipe says")
    for one in fields(DataConfig):
        help_ = one.metadata["help"].rstrip(".")
        required = one.name == "data" and not recipe
        group.add_argument(
            f"--{one.name}", required=required, metavar=one.name.upper(), help=help_[0].lower() + help_[1:]
        )


def data_of(options: argparse.Namespace) -> dict[str, str]:
    """Return the options of `DataConfig` that were given."""
    values = {one.name: getattr(options, one.name) for one in fields(DataConfig)}
    return {name: value for name, value in values.items() if value is not None}


def data_words(options: argparse.Namespace) -> Sequence[str]:
    """Return them as words of a command line."""
    return [f"--{name}={value}" for name, value in data_of(options).items()]


def refuse_data_options(options: argparse.Namespace, why: str) -> None:
    """Refuse them where nothing is loaded."""
    for name in data_of(options):
        raise ValueError(f"{name} is given, but {why}: leave it out.")
