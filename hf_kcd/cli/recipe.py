"""The configuration of a run: read from a YAML file and the command line, and written back as a file."""

import argparse
import difflib
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import huggingface_hub
import yaml
from transformers import HfArgumentParser

from ..artifacts.files import atomic_file
from ..data.preprocessing import AUGMENTATIONS
from ..errors import unknown_name, whole_number
from ..training import DistillationConfig, KCDConfig
from .data import DataConfig, option
from .options import CommandParser, add_import_option, current_name, current_words, say

_PRESETS = {"paper": KCDConfig.paper, "released_code": KCDConfig.released_code}
# What most runs change, in the order of the help and of written files.
_COMMON = [
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
_TEACHER = ("teacher", "teacher_checkpoint", "assistants")
_SCHEDULE = ("lr_schedule", "lr_decay_epochs", "lr_decay_rate", "warmup_epochs")
_SCHEDULE += ("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps")
# Where a run is written, and whether it is resumed, does not change what is trained.
_NOT_IN_RECIPE = ("output_dir", "resume", "resume_from_checkpoint", "disable_tqdm")
_KINDS = {int: "N", float: "X"}


@dataclass
class RunConfig(DataConfig):
    """What is trained, and on what; the rest is `DistillationConfig` and `KCDConfig`."""

    train_points: int | None = option(None, "Train on this many images only, balanced over the classes.")
    student: str = option(
        "cifar_resnet8", "Network to train (also --network): a timm name, folder or hf_hub:user/name.", "--network"
    )
    student_checkpoint: str | None = option(None, "File with weights to start from.")
    new_classifier: bool = option(False, "Replace the classifier of pretrained weights, to transfer to new classes.")
    freeze_backbone: bool = option(False, "Train the classifier alone and keep the other pretrained weights fixed.")
    image_size: int | None = option(None, "Size to resize images to; by default the data's or the network's.")
    image_augmentation: str | None = option(
        None,
        "How training cuts and mirrors images: crop_flip, crop, resized_crop_flip, resized_crop or none; the data's own.",
    )
    teacher: str | None = option(None, "Network to learn from: a timm name, a run's folder, or hf_hub:user/name.")
    teacher_checkpoint: str | None = option(None, "Weights of a teacher given by its timm name (.safetensors, .pth).")
    assistants: list[str] | None = field(
        default=None,
        metadata={"help": "Networks between teacher and student, largest first (TAKD, DGKD); trained if need be."},
    )
    mask: str | None = option(None, "Train only on what this knowledge mask keeps: a folder or user/name[@revision].")
    mask_mixing: bool = option(True, "Mix the mask's borderline images as the mask says.")
    soft_labels: bool = option(False, "Learn from the soft labels stored with the mask instead of a teacher.")
    plots: bool = option(True, "Draw the plots of the run at its end.")
    resume: bool = option(False, "Continue the run in output_dir from its last complete checkpoint.")
    condense: bool = option(False, "Condense the knowledge while training.")
    preset: str = option("paper", "Starting values of the options below: 'paper' or 'released_code'.")

    def __post_init__(self) -> None:
        # On another machine, a relative folder would read as a Hub id.
        for name in ("data", "mask"):
            value = getattr(self, name)
            if value and "/" in value and not value.startswith((".", "/", "~")) and Path(value).is_dir():
                setattr(self, name, f"./{value}")
        if self.preset not in _PRESETS:
            raise unknown_name("preset", self.preset, _PRESETS)
        if self.image_augmentation is not None and self.image_augmentation not in AUGMENTATIONS:
            raise unknown_name("image_augmentation", self.image_augmentation, tuple(AUGMENTATIONS))
        if self.image_size is not None:
            whole_number("image_size", self.image_size, hint="Leave it out for the data's size.")
        if self.train_points is not None:
            whole_number("train_points", self.train_points, hint="Leave it out for all points.")
        for name in ("teacher_checkpoint", "assistants"):
            if getattr(self, name) and self.teacher is None:
                raise ValueError(f"{name} is given but teacher is not: name the teacher, too.")
        if self.soft_labels and self.mask is None:
            raise ValueError("soft_labels come with a mask: name it, e.g. --mask user/name.")
        if self.soft_labels and self.teacher is not None:
            raise ValueError("soft_labels replace the teacher: leave teacher or soft_labels out.")
        if self.mask is not None and self.condense:
            raise ValueError("mask fixes the points of the whole training, condense selects them: give one of them.")


@dataclass(frozen=True)
class Recipe:
    """A whole run: what is trained, how, how it is condensed (None for not at all), and the command line that said so.

    `given` are the options that the file or the command line gave, `imports` the user's modules that the run needs.
    """

    config: RunConfig
    args: DistillationConfig
    kcd: KCDConfig | None
    command: str
    given: frozenset[str]
    imports: tuple[str, ...]

    @property
    def resumes(self) -> bool:
        """Whether an interrupted run is continued."""
        return self.config.resume or self.args.resume_from_checkpoint is not None

    def save(self, path: str | Path) -> None:
        """Write the recipe as a YAML file that `--config` takes."""
        names = dict.fromkeys((*_COMMON, *sorted(self.given & _names(DistillationConfig))))
        values = {"import": list(self.imports) or None, **asdict(self.config)}
        values |= {name: getattr(self.args, name) for name in names}
        if self.kcd is None:
            del values["preset"]
        else:
            values |= self.kcd.to_dict()
        kept = {key: value for key, value in values.items() if value is not None and key not in _NOT_IN_RECIPE}
        # JSON has no enumerations and no tuples.
        plain = json.loads(json.dumps(kept, default=lambda value: getattr(value, "value", str(value))))
        with atomic_file(path) as temporary:
            temporary.write_text(yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=120))


def read_recipe(command: str, arguments: Sequence[str], **defaults: Any) -> Recipe:
    """Read a run from the words behind a command, and check it as far as possible without data and networks.

    `--config FILE.yaml` gives values that the other words override; `defaults` differ from the fields' own.
    """
    parser = _RecipeParser(command)
    parser.set_defaults(logging_strategy="epoch", eval_strategy="epoch", **defaults)
    line = current_words(parser, arguments)
    file = parser.parse_known_args(line)[0].config
    words = [*([] if file is None else parser.words_of_file(Path(file))), *line]
    namespace, unknown = parser.parse_known_args(words)
    if unknown:
        raise parser.unknown_option(f"option of hf-kcd {command}", unknown[0])
    values = vars(namespace)
    overrides = {name: values.pop(name) for name in _names(KCDConfig) if name in values}
    given, from_line = parser.names_in(words), parser.names_in(line)
    if "logging_steps" in given and "logging_strategy" not in given:
        values["logging_strategy"] = "steps"
    # A recipe of a pair also serves on a published mask, and without its teacher: its own contrary options are ignored.
    if "mask" in from_line and "condense" not in from_line:
        values["condense"] = False
        from_line |= {"condense"}
    if values["soft_labels"] and "soft_labels" in from_line:
        values.update({name: None for name in _TEACHER if name not in from_line})
    # Another schedule on the command line replaces the file's, with the settings that belong to it.
    if {"lr_schedule", "lr_scheduler_type"} & from_line:
        values |= {name: parser.get_default(name) for name in _SCHEDULE if name not in from_line}
    config = RunConfig(**{name: values[name] for name in _names(RunConfig)})
    if values["output_dir"] is None:
        raise ValueError("output_dir is missing: name the folder to write to, e.g. --output_dir runs/first.")
    args = DistillationConfig(**{name: values[name] for name in _names(DistillationConfig) if name in values})
    kcd = _PRESETS[config.preset](**overrides) if config.condense else None
    if kcd is None:
        # With --condense false on the command line, a recipe that condenses also serves without condensation.
        for name in sorted((from_line if "condense" in from_line else given) & (_names(KCDConfig) | {"preset"})):
            raise ValueError(f"{name} is given but condense is not: add --condense, or leave {name} out.")
    return Recipe(config, args, kcd, f"hf-kcd {command} {shlex.join(arguments)}", given, tuple(values["imports"]))


class _RecipeParser(HfArgumentParser):
    """The options of a run: the most needed first in the help, and errors as exceptions."""

    def __init__(self, command: str) -> None:
        configs = [RunConfig, DistillationConfig, KCDConfig]
        super().__init__(configs, prog=f"hf-kcd {command}", allow_abbrev=False, formatter_class=_OneSpelling)
        text = "YAML file with any of the options below; the command line wins."
        self.add_argument("--config", metavar="FILE", help=text)
        add_import_option(self)
        for action in self._actions:
            if action.dest in _names(KCDConfig):
                # The preset fills what is not given, so absence differs from the default.
                action.help += f" Paper: {action.default}."
                action.default = argparse.SUPPRESS

    def words_of_file(self, path: Path, above: tuple[Path, ...] = ()) -> list[str]:
        """Turn a YAML file into command-line words; its `base` is another file beside it, whose values it overrides."""
        try:
            values = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a YAML file: {error}") from error
        values = {} if values is None else values
        if not isinstance(values, dict):
            raise ValueError(f"{path} holds a {type(values).__name__}: write one 'option: value' a line.")
        words, above = [], (*above, path.resolve())
        if (base := values.pop("base", None)) is not None:
            if (path.parent / str(base)).resolve() in above:
                raise ValueError(f"base in {path} is {base}, which is based on {path} itself: remove one of them.")
            words = self.words_of_file(path.parent / str(base), above)
        valid = {option.removeprefix("--") for option in self._option_string_actions} - {"config", "help"}
        for key, value in values.items():
            key = current_name(str(key), valid)
            if key not in valid:
                raise self.unknown_option(f"key in {path}", key)
            if key == "import":
                words += _import_words(path, value)
            elif isinstance(value, list):
                words += [f"--{key}", *map(str, value)]
            elif isinstance(value, dict):
                words.append(f"--{key}={json.dumps(value)}")
            elif value is not None:
                words.append(f"--{key}={value}")
        return words

    def names_in(self, words: Sequence[str]) -> frozenset[str]:
        """Name the fields that words give a value to."""
        actions = (self._option_string_actions.get(word.split("=")[0]) for word in words)
        return frozenset(action.dest for action in actions if action is not None)

    def unknown_option(self, kind: str, word: str) -> ValueError:
        """Build the error for an unknown option; there are too many to list them all."""
        name = word.lstrip("-").split("=")[0].replace("-", "_")
        nearest = difflib.get_close_matches(name, sorted({action.dest for action in self._actions}), n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(nearest)}? " if nearest else ""
        return ValueError(f"Unknown {kind}: {word!r}. {hint}{self.prog} --help lists all of them.")

    error = CommandParser.error

    def format_help(self) -> str:
        actions = {}
        for action in self._actions:
            actions.setdefault(action.dest, action)
        condensation = ["condense", "preset", *(f.name for f in fields(KCDConfig))]
        what = ["config", "imports", *(f.name for f in fields(RunConfig) if f.name not in condensation)]
        rest = [name for name in actions if name not in {*what, *condensation, *_COMMON, "help"}]
        sections = {"What is trained": what, "How it is trained": _COMMON, "How knowledge is condensed": condensation}
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


def _import_words(path: Path, value: Any) -> list[str]:
    """Turn the `import` of a recipe into words; a recipe from the Hub, which is a stranger's, may not have one."""
    modules = value if isinstance(value, list) else [value]
    listed = ", ".join(map(str, modules))
    cache = Path(huggingface_hub.constants.HF_HUB_CACHE).resolve()
    if path.absolute().is_relative_to(cache) or path.resolve().is_relative_to(cache):
        raise ValueError(
            f"{path} comes from the Hub, so it may run no code, and it asks to import {listed}: copy the recipe, read the "
            "module, and import it with --import."
        )
    say(f"hf-kcd: {path} imports {listed}.", sys.stderr)
    return [f"--import={module}" for module in modules]


def _names(config: type) -> frozenset[str]:
    return frozenset(f.name for f in fields(config) if f.init)
