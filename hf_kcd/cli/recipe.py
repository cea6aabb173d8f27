"""A run's configuration: fields with a help each, read from a YAML file and the command line, and written back as a file."""

import argparse
import difflib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import HfArg

from ..artifacts.files import atomic_file
from ..errors import unknown_name
from ..training import DistillationConfig, KCDConfig

_PRESETS = {"paper": KCDConfig.paper, "released_code": KCDConfig.released_code}

# What most runs change. The order is the one of the help and of the files that are written.
_COMMON = (
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
)
_TEACHER = ("teacher", "teacher_checkpoint", "assistants")
# Where a run is written and whether it is taken up again is not what is trained.
_NOT_IN_RECIPE = ("output_dir", "resume", "resume_from_checkpoint", "disable_tqdm")


@dataclass
class RunConfig:
    """What is trained, and on what; the rest is `DistillationConfig` and `KCDConfig`.

    Raises:
        ValueError: When fields contradict each other.
    """

    data: str = field(
        default="digits",
        metadata={"help": "Data set: 'digits', 'cifar100', 'imagenet', a folder, or a Hub id such as user/name."},
    )
    data_dir: str | None = field(default=None, metadata={"help": "Folder with that data, so that nothing is fetched."})
    train_split: str | None = field(default=None, metadata={"help": "Split to train on; 'train' without it."})
    eval_split: str | None = field(default=None, metadata={"help": "Split to evaluate on; found by name without it."})
    image_column: str | None = field(default=None, metadata={"help": "Image column; found by type without it."})
    label_column: str | None = field(default=None, metadata={"help": "Label column; found by type without it."})
    train_points: int | None = field(
        default=None, metadata={"help": "Train on the first n points of a fixed order that alternates the classes."}
    )
    student: str = HfArg(
        default="cifar_resnet8",
        aliases=["--network"],
        help="Network that is trained (--network means the same): a timm name, a folder, or hf_hub:user/name.",
    )
    student_checkpoint: str | None = field(default=None, metadata={"help": "File with weights that it starts from."})
    new_classifier: bool = field(
        default=False,
        metadata={"help": "Put a new classifier on the weights it starts from, to transfer it to the data's classes."},
    )
    freeze_backbone: bool = field(
        default=False,
        metadata={"help": "Train its classifier alone and leave the weights it starts from as they are."},
    )
    image_size: int | None = field(
        default=None,
        metadata={
            "help": "Height and width its images are resized to; without it the data's, or those its weights know."
        },
    )
    teacher: str | None = field(
        default=None, metadata={"help": "Network it learns from: a timm name, a run's folder, or hf_hub:user/name."}
    )
    teacher_checkpoint: str | None = field(
        default=None,
        metadata={"help": "File with the weights of a teacher given by its timm name (.safetensors, .pth)."},
    )
    assistants: list[str] | None = field(
        default=None,
        metadata={
            "help": "Networks of middle size between teacher and student, from the first to the last (TAKD, DGKD). Each timm "
            "name is trained in output_dir/assistant-N, from those before it; a folder with weights is used as it is."
        },
    )
    mask: str | None = field(
        default=None,
        metadata={
            "help": "Knowledge mask (folder or Hub id, also user/name@revision) whose points are trained on from the start."
        },
    )
    mask_mixing: bool = field(default=True, metadata={"help": "Mix the mask's borderline points as it says."})
    soft_labels: bool = field(
        default=False,
        metadata={"help": "Learn from the teacher's soft labels that came with the mask, without the teacher."},
    )
    plots: bool = field(default=True, metadata={"help": "Draw the run's plots at its end."})
    resume: bool = field(
        default=False, metadata={"help": "Continue the run in output_dir from its last whole checkpoint."}
    )
    condense: bool = field(default=False, metadata={"help": "Condense the knowledge while training."})
    preset: str = field(
        default="paper", metadata={"help": "What the options below start from: 'paper' or 'released_code'."}
    )

    def __post_init__(self) -> None:
        # What is a folder here reads as a Hub id wherever it is not.
        for name in ("data", "mask"):
            value = getattr(self, name)
            if value and "/" in value and not value.startswith((".", "/", "~")) and Path(value).is_dir():
                setattr(self, name, f"./{value}")
        if self.preset not in _PRESETS:
            raise unknown_name("preset", self.preset, _PRESETS)
        if self.train_points is not None and self.train_points < 1:
            raise ValueError(f"train_points is {self.train_points}: give at least 1, or leave it out for all points.")
        if self.teacher_checkpoint is not None and self.teacher is None:
            raise ValueError(
                "teacher_checkpoint is given but teacher is not: name the network these weights belong to."
            )
        if self.assistants and self.teacher is None:
            raise ValueError(
                "assistants is given but teacher is not: name the network that the first of them learns from."
            )
        if self.soft_labels and self.mask is None:
            raise ValueError("soft_labels come with a mask: say which, e.g. --mask user/name.")
        if self.soft_labels and self.teacher is not None:
            raise ValueError("soft_labels stand in for the teacher: leave teacher out, or soft_labels.")
        if self.mask is not None and self.condense:
            raise ValueError(
                "mask fixes the points of the whole training, condense selects them anew: give one of them."
            )


@dataclass(frozen=True)
class Recipe:
    """A whole run: what, how, and how it is condensed.

    Args:
        config: What is trained.
        args: How it is trained.
        kcd: How knowledge is condensed; None where it is not.
        given: Names of the options that the file or the command line gave.
    """

    config: RunConfig
    args: DistillationConfig
    kcd: KCDConfig | None
    given: frozenset[str]

    def save(self, path: str | Path) -> None:
        """Write the recipe as a YAML file that `--config` takes."""
        names = dict.fromkeys((*_COMMON, *sorted(self.given & _names(DistillationConfig))))
        values = {
            **asdict(self.config),
            **{name: getattr(self.args, name) for name in names},
            **({} if self.kcd is None else self.kcd.to_dict()),
        }
        if self.kcd is None:
            del values["preset"]
        kept = {key: value for key, value in values.items() if value is not None and key not in _NOT_IN_RECIPE}
        # Through JSON, which has no enumerations and no tuples.
        plain = json.loads(json.dumps(kept, default=lambda value: getattr(value, "value", str(value))))
        with atomic_file(path) as temporary:
            temporary.write_text(yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=120))


def read_recipe(command: str, arguments: Sequence[str], **defaults: Any) -> Recipe:
    """Read a run's configuration.

    Args:
        command: Name of the command, for its help.
        arguments: Command-line words behind it. `--config FILE.yaml` gives values that the other words override.
        **defaults: Defaults of this command where they differ from the fields' own.

    Returns:
        The run, checked as far as it can be without data and networks.

    Raises:
        ValueError: For unknown names, values that cannot be, and condensation options without `condense`.
        FileNotFoundError: When the file does not exist.
    """
    parser = _RecipeParser(command)
    parser.set_defaults(logging_strategy="epoch", eval_strategy="epoch", **defaults)
    file, words = _config_option(arguments)
    file_words = [] if file is None else parser.words_of_file(file)
    namespace, unknown = parser.parse_known_args([*file_words, *words])
    if unknown:
        raise parser.unknown_option(f"option of hf-kcd {command}", unknown[0])
    values = vars(namespace)
    overrides = {name: values.pop(name) for name in _names(KCDConfig) if name in values}
    given = parser.names_in([*file_words, *words])
    if "logging_steps" in given and "logging_strategy" not in given:
        values["logging_strategy"] = "steps"
    from_line = parser.names_in(words)
    # A pair's recipe also serves on a published mask, and without its teacher: what the file says against it is set aside.
    if "mask" in from_line and "condense" not in from_line:
        values["condense"] = False
        from_line |= {"condense"}
    if values["soft_labels"] and "soft_labels" in from_line:
        values.update({name: None for name in _TEACHER if name not in from_line})
    config = RunConfig(**{name: values[name] for name in _names(RunConfig)})
    if values["output_dir"] is None:
        raise ValueError("output_dir is missing: say where the run is written, e.g. --output_dir runs/first.")
    args = DistillationConfig(**{name: values[name] for name in _names(DistillationConfig) if name in values})
    if config.condense:
        return Recipe(config, args, _PRESETS[config.preset](**overrides), given)
    # A recipe that condenses also serves as the one without: --condense false sets the file's own options aside.
    for name in sorted((from_line if "condense" in from_line else given) & (_names(KCDConfig) | {"preset"})):
        raise ValueError(f"{name} is given but condense is not: add --condense, or leave {name} out.")
    return Recipe(config, args, None, given)


class _RecipeParser(HfArgumentParser):
    """The options of a run, with the few that most need first in the help, and errors that the caller words."""

    def __init__(self, command: str) -> None:
        super().__init__(
            [RunConfig, DistillationConfig, KCDConfig],
            prog=f"hf-kcd {command}",
            allow_abbrev=False,
            formatter_class=_OneSpelling,
        )
        self.add_argument(
            "--config", metavar="FILE", help="YAML file with any of the options below; the command line wins."
        )
        for action in self._actions:
            if action.dest in _names(KCDConfig):
                # A preset says what is not given, so there is a difference between a default and nothing.
                action.help += f" Paper: {action.default}."
                action.default = argparse.SUPPRESS

    def words_of_file(self, path: str, above: tuple[Path, ...] = ()) -> list[str]:
        """Turn a YAML file's keys and values into command-line words, which are then checked in one place.

        Its `base` is another such file, beside it, whose values it overrides.
        """
        try:
            values = yaml.safe_load(Path(path).read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no YAML file: {error}") from error
        if values is None:
            return []
        if not isinstance(values, dict):
            raise ValueError(f"{path} holds a {type(values).__name__}: write one 'option: value' a line.")
        base, words = values.pop("base", None), []
        if base is not None:
            above = (*above, Path(path).resolve())
            if (Path(path).parent / str(base)).resolve() in above:
                raise ValueError(f"base in {path} is {base}, which is based on {path} itself: leave one of them out.")
            words = self.words_of_file(str(Path(path).parent / str(base)), above)
        for key, value in values.items():
            option = f"--{key}"
            if option not in self._option_string_actions or key in ("config", "help"):
                raise self.unknown_option(f"key in {path}", str(key))
            if isinstance(value, list):
                words += [option, *map(str, value)]
            elif isinstance(value, dict):
                words.append(f"{option}={json.dumps(value)}")
            elif value is not None:
                words.append(f"{option}={value}")
        return words

    def names_in(self, words: Sequence[str]) -> frozenset[str]:
        """Name the fields that words give a value to."""
        options = (word.split("=")[0] for word in words)
        return frozenset(
            self._option_string_actions[word].dest for word in options if word in self._option_string_actions
        )

    def unknown_option(self, kind: str, word: str) -> ValueError:
        """Word the error for an option that does not exist; there are too many to list them all."""
        name = word.lstrip("-").split("=")[0].replace("-", "_")
        valid = sorted({action.dest for action in self._actions})
        nearest = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(nearest)}? " if nearest else ""
        return ValueError(f"Unknown {kind}: {word!r}. {hint}{self.prog} --help lists all of them.")

    def error(self, message: str) -> None:
        """Raise instead of printing two screens of usage."""
        raise ValueError(f"{message}. See {self.prog} --help.")

    def format_help(self) -> str:
        """Write the help in groups, the options that most runs need first."""
        actions = {}
        for action in self._actions:
            actions.setdefault(action.dest, action)
        what = ("config", *(f.name for f in fields(RunConfig) if f.name not in ("condense", "preset")))
        how_condensed = ("condense", "preset", *(f.name for f in fields(KCDConfig)))
        rest = [name for name in actions if name not in {*what, *how_condensed, *_COMMON, "help"}]
        formatter = self._get_formatter()
        formatter.add_text(f"usage: {self.prog} [--config FILE.yaml] --output_dir FOLDER [--option value ...]")
        for title, names in (
            ("What is trained", what),
            ("How it is trained", _COMMON),
            ("How knowledge is condensed", how_condensed),
            ("Everything else of transformers.TrainingArguments", rest),
        ):
            formatter.start_section(title)
            formatter.add_arguments([actions[name] for name in names])
            formatter.end_section()
        return formatter.format_help()


class _OneSpelling(argparse.HelpFormatter):
    """Help with each option spelled once and its default behind it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=119)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if action.nargs == 0:
            return action.option_strings[0]
        if action.nargs == "?":
            return f"{action.option_strings[0]} [true|false]"
        return f"{action.option_strings[0]} {action.metavar or _KINDS.get(action.type, 'VALUE')}"

    def _get_help_string(self, action: argparse.Action) -> str:
        text = (action.help or "").replace("\n", " ")
        shown = action.default not in (None, argparse.SUPPRESS, [], "") and "default" not in text.lower()
        return f"{text} [%(default)s]" if shown else text


_KINDS = {int: "N", float: "X"}


def _config_option(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config")
    try:
        namespace, words = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ValueError(f"{error}: give a YAML file, e.g. --config recipes/digits/kd.yaml.") from error
    return namespace.config, words


def _names(config: type) -> frozenset[str]:
    return frozenset(f.name for f in fields(config) if f.init)
