"""The parser of a run's options: from the command line, and from a YAML file and the files that it is based on."""

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import huggingface_hub
import yaml
from transformers import HfArgumentParser

from ..errors import near_names
from ..training import DistillationConfig, KCDConfig
from .options import CommandParser, OneValueLoader, add_import_option, current_name, import_module, mapping, say

# What most runs change, in the order of the help and of written files.
COMMON = [
    "output_dir",
    "method",
    "method_options",
    "num_train_epochs",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "learning_rate",
    "lr_schedule",
    "lr_decay_epochs",
    "lr_decay_rate",
    "warmup_epochs",
    "momentum",
    "nesterov",
    "weight_decay",
    "seed",
    "bf16",
    "fp16",
    "torch_compile",
    "dataloader_num_workers",
    "gradient_accumulation_steps",
    "max_steps",
    "save_total_limit",
    "disable_tqdm",
]
_KINDS = {int: "N", float: "X"}


class RecipeParser(HfArgumentParser):
    """The options of a run: the most needed first in the help, and errors as exceptions."""

    def __init__(self, command: str, run_config: type) -> None:
        configs = [run_config, DistillationConfig, KCDConfig]
        hints = (get_type_hints(config).items() for config in configs)
        self._kinds = {name: _kinds_of(hint) for name, hint in itertools.chain(*hints)}
        self._run_config = run_config
        super().__init__(configs, prog=f"hf-kcd {command}", allow_abbrev=False, formatter_class=_OneSpelling)
        text = "YAML file with any of the options below, or a name of hf-kcd recipes; the command line wins."
        self.add_argument("--config", metavar="FILE", help=text)
        add_import_option(self)
        for action in self._actions:
            if dict in self._kinds.get(action.dest, ()):
                action.type = _mapping_or_text if str in self._kinds[action.dest] else mapping
            if action.dest in field_names(KCDConfig):
                # The preset fills what is not given, so absence differs from the default.
                action.help += f" Paper: {action.default}."
                action.default = argparse.SUPPRESS

    def values_of_file(self, path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
        """Read the options in a YAML file by name; its `base` is another file beside it, whose values it overrides."""
        try:
            values = yaml.load(path.read_text(encoding="utf-8"), OneValueLoader)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a YAML file: {error}") from error
        values = {} if values is None else values
        if not isinstance(values, dict):
            raise ValueError(f"{path} holds a {type(values).__name__}: write one 'option: value' a line.")
        found, above = {}, (*above, path.resolve())
        if (base := values.pop("base", None)) is not None:
            if (path.parent / str(base)).resolve() in above:
                raise ValueError(f"base in {path} is {base}, which is based on {path} itself: remove one of them.")
            found = self.values_of_file(path.parent / str(base), above)
        actions = {option.removeprefix("--"): action for option, action in self._option_string_actions.items()}
        valid = {name for name, action in actions.items() if action.dest in self._kinds and action.nargs != 0}
        spelled: dict[str, str] = {}
        for key, value in values.items():
            key = current_name(str(key), valid | {"import"})
            if key == "import":
                found["imports"] = [*found.get("imports", []), *_imports_of(path, value)]
            elif key in valid:
                if (other := spelled.setdefault(actions[key].dest, key)) != key:
                    raise ValueError(f"{other} and {key} in {path} are the same option: leave one of them out.")
                found[actions[key].dest] = self._convert(actions[key], value, f"{key} in {path}")
            else:
                raise self.unknown_option(f"key in {path}", key)
        return found

    def _convert(self, action: argparse.Action, value: Any, where: str) -> Any:
        """Check a value of a file, and read a word as the command line does; `1e-3` is a word in YAML."""
        kinds = self._kinds[action.dest]
        if isinstance(value, list) and list in kinds:
            return [self._convert_word(action, one, where) for one in value]
        if (isinstance(value, dict) and dict in kinds) or (value is None and type(None) in kinds):
            return value
        if value is None or isinstance(value, (list, dict)):
            kind = {list: "a list", dict: "a mapping"}.get(type(value), "empty")
            raise ValueError(f"{where} is {kind}: give a single value, or leave it out.")
        if isinstance(value, bool) and {bool, value} & kinds:
            return value
        word = self._convert_word(action, value, where)
        return [word] if action.nargs == "+" else word

    def _convert_word(self, action: argparse.Action, value: Any, where: str) -> Any:
        # YAML takes the word no for false.
        word = "no" if value is False else str(value)
        try:
            found = action.type(word)
        except (TypeError, ValueError, argparse.ArgumentTypeError) as error:
            raise ValueError(f"{where} is {value!r}: {error}.") from error
        if action.choices is not None and found not in action.choices:
            raise ValueError(f"{where} is {value!r}: choose {', '.join(map(repr, action.choices))}.")
        return found

    def names_in(self, words: Sequence[str]) -> frozenset[str]:
        """Name the fields that words give a value to."""
        actions = (self._option_string_actions.get(word.split("=")[0]) for word in words)
        return frozenset(action.dest for action in actions if action is not None)

    def unknown_option(self, kind: str, word: str) -> ValueError:
        """Build the error for an unknown option; there are too many to list them all."""
        name = word.lstrip("-").split("=")[0].replace("-", "_")
        names = dict.fromkeys([*COMMON, *(action.dest for action in self._actions)])
        nearest = near_names(name, names)
        hint = f"Did you mean {' or '.join(nearest)}? " if nearest else ""
        return ValueError(f"Unknown {kind}: {word!r}. {hint}{self.prog} --help lists all of them.")

    error = CommandParser.error

    def format_help(self) -> str:
        actions = {}
        for action in self._actions:
            actions.setdefault(action.dest, action)
        condensation = ["condense", "preset", *(f.name for f in fields(KCDConfig))]
        what = ["config", "imports", *(f.name for f in fields(self._run_config) if f.name not in condensation)]
        rest = [name for name in actions if name not in {*what, *condensation, *COMMON, "help"}]
        sections = {"What is trained": what, "How it is trained": COMMON, "How knowledge is condensed": condensation}
        formatter = self._get_formatter()
        formatter.add_text(f"usage: {self.prog} [--config FILE.yaml] --output_dir FOLDER [--option value ...]")
        for title, names in {**sections, "Everything else of transformers.TrainingArguments": rest}.items():
            formatter.start_section(title)
            formatter.add_arguments([actions[name] for name in names])
            formatter.end_section()
        return formatter.format_help()


class _OneSpelling(argparse.HelpFormatter):
    """Help with each option spelled once and its default behind it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=119)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        value = {0: "", "?": " [true|false]"}.get(
            action.nargs, f" {action.metavar or _KINDS.get(action.type, 'VALUE')}"
        )
        return f"{action.option_strings[0]}{value}"

    def _get_help_string(self, action: argparse.Action) -> str:
        text = (action.help or "").replace("\n", " ")
        shown = action.default not in (None, argparse.SUPPRESS, [], "") and "default" not in text.lower()
        return f"{text} [%(default)s]" if shown else text


def _imports_of(path: Path, value: Any) -> list[str]:
    """Import what a recipe names as `import`; a recipe from the Hub, which is a stranger's, may not have one."""
    modules = list(map(str, value if isinstance(value, list) else [value]))
    listed = ", ".join(modules)
    cache = Path(huggingface_hub.constants.HF_HUB_CACHE).resolve()
    if path.absolute().is_relative_to(cache) or path.resolve().is_relative_to(cache):
        raise ValueError(
            f"{path} comes from the Hub, so it may run no code, and it asks to import {listed}: copy the recipe, read the "
            "module, and import it with --import."
        )
    say(f"hf-kcd: {path} imports {listed}.", sys.stderr)
    for module in modules:
        import_module(module)
    return modules


def _mapping_or_text(text: str) -> Any:
    """Read a mapping such as '{img_size: 64}'; other text, which may name a file, stays as it is."""
    return mapping(text) if text.lstrip().startswith("{") else text


def _kinds_of(hint: Any) -> frozenset[Any]:
    """List the types, and the single values, that a field's annotation allows."""
    if get_origin(hint) in (Union, UnionType):
        return frozenset().union(*map(_kinds_of, get_args(hint)))
    return frozenset(get_args(hint)) if get_origin(hint) is Literal else frozenset([get_origin(hint) or hint])


def field_names(config: type) -> frozenset[str]:
    return frozenset(f.name for f in fields(config) if f.init)
