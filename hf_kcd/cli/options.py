"""What the commands share: their parser, old spellings of options, and modules of the user's own."""

import argparse
import importlib
import os
import sys
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml


class RunFailed(Exception):
    """A training or upload that had begun and could not go on; the message says why."""


class RunStopped(Exception):
    """A signal stopped a training behind a complete checkpoint; the message says where."""


class CommandParser(argparse.ArgumentParser):
    """The options of the command whose file has the docstring "`hf-kcd NAME`: what it does."."""

    def __init__(self, doc: str, epilog: str | None = None, imports: bool = False) -> None:
        name, text = doc.split(": ", 1)
        raw = argparse.RawDescriptionHelpFormatter
        about = {"description": text[0].upper() + text[1:], "epilog": epilog, "formatter_class": raw}
        super().__init__(prog=name.strip("`"), allow_abbrev=False, **about)
        if imports:
            add_import_option(self)

    def parse_args(self, args: Sequence[str], namespace: argparse.Namespace | None = None) -> argparse.Namespace:
        return super().parse_args(current_words(self, args), namespace)

    def refuse_unread(self, options: argparse.Namespace, names: Iterable[str], why: str) -> None:
        """Refuse options that were given where nothing reads them."""
        for name in names:
            if getattr(options, name) != self.get_default(name):
                raise ValueError(f"{name} is given, but {why}: leave it out.")

    def error(self, message: str) -> None:
        raise ValueError(f"{message}. See {self.prog} --help.")


class _Import(argparse.Action):
    def __call__(self, parser, namespace, value, option_string=None):
        import_module(value)
        names = getattr(namespace, self.dest)
        setattr(namespace, self.dest, names if value in names else [*names, value])


def add_import_option(parser: argparse.ArgumentParser) -> None:
    """Add `--import`, which imports a module as soon as it is read."""
    text = "Python file or module to import first, such as my_methods.py: it registers your own methods, values or networks"
    parser.add_argument(
        "--import", dest="imports", metavar="MODULE", action=_Import, default=[], help=f"{text} (repeatable)"
    )


def import_module(name: str) -> None:
    """Import a user's module, once: a file ("my_methods.py"), or a dotted name, also found in the current folder."""
    path = Path(name) if name.endswith(".py") else None
    if path is not None and not path.is_file():
        raise ImportError(f"Cannot import {name}: there is no such file. Give its path from the current folder.")
    # At the end of the search path, the user's folder hides no installed package.
    sys.path.append(os.getcwd() if path is None else str(path.parent.resolve()))
    wanted = name if path is None else path.stem
    try:
        module = importlib.import_module(wanted)
    except (Exception, SystemExit) as error:
        reason = f"it raised {type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError) and f"{wanted}.".startswith(f"{error.name}."):
            reason = "there is no such module, neither installed nor in the current folder"
        raise ImportError(f"Cannot import {name}: {reason}.") from error
    if path is None and (own := Path(f"{name.replace('.', os.sep)}.py")).is_file():
        path = own
    if path is not None and Path(getattr(module, "__file__", None) or "").resolve() != path.resolve():
        raise ImportError(f"Cannot import {name}: another module is called {wanted}. Rename the file.")


def current_name(name: str, valid: Container[str]) -> str:
    """Translate the old spelling of an option or recipe key, with hyphens, into a name in `valid`, with a warning."""
    new = name.replace("-", "_")
    if new == name or new not in valid:
        return name
    say(f"hf-kcd: {name} is now spelled {new}. The old spelling will stop working in the next version.", sys.stderr)
    return new


def current_words(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """Translate the old spellings of options among command-line words."""
    valid = {option.removeprefix("--") for option in parser._option_string_actions}
    current = []
    for word in words:
        name, sign, value = word.removeprefix("--").partition("=")
        current.append(f"--{current_name(name, valid)}{sign}{value}" if word.startswith("--") else word)
    return current


class OneValueLoader(yaml.SafeLoader):
    """YAML whose mappings give each key one value, where `SafeLoader` takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for place, (key, _) in enumerate(node.value):
            if key.value in keys[:place]:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
        return super().construct_mapping(node, deep)


def mapping(text: str) -> dict[str, Any]:
    """Read an option's mapping, such as '{img_size: 64}', as YAML or JSON."""
    try:
        value = yaml.load(text, OneValueLoader)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a mapping such as '{{name: 1}}' ({error})") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a mapping such as '{{name: 1}}'")
    return value


def refuse_full(folder: Path, option: str) -> None:
    """Refuse to write into a folder that already holds something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty: remove it, or choose another {option}.")


def say(text: str, file=None) -> None:
    """Print, once however many processes there are."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=file, flush=True)
