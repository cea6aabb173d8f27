"""The configuration of a run: read from a YAML file and the command line, and written back as a file."""

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ..artifacts.files import atomic_file
from ..data.preprocessing import AUGMENTATIONS
from ..errors import unknown_name, whole_number
from ..methods.registry import get_method
from ..training import DistillationConfig, KCDConfig
from .data import DataConfig, option
from .options import current_words
from .recipe_folder import find_recipe
from .recipe_parser import COMMON, RecipeParser, field_names

PRESETS = {"paper": KCDConfig.paper, "released_code": KCDConfig.released_code}
_TEACHER = ("teacher", "teacher_checkpoint", "teacher_args", "assistants")
_SCHEDULE = ("lr_schedule", "lr_decay_epochs", "lr_decay_rate", "warmup_epochs")
_SCHEDULE += ("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps")
_OF_SCRIPTS = ("do_train", "do_eval", "do_predict")
_OF_PUSH = ("hub_model_id", "hub_private_repo", "hub_revision", "hub_strategy", "hub_always_push")
# Where a run is written, and whether it is resumed, does not change what is trained.
_NOT_IN_RECIPE = ("output_dir", "resume", "resume_from_checkpoint", "disable_tqdm")


@dataclass
class RunConfig(DataConfig):
    """What is trained, and on what; the rest is `DistillationConfig` and `KCDConfig`."""

    train_points: int | None = option(None, "Train on this many images only, balanced over the classes.")
    student: str = option(
        "cifar_resnet8", "Network to train (also --network): a timm name, folder or hf_hub:user/name.", "--network"
    )
    student_args: dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "Arguments of the network as timm takes them (also --network_args), e.g. '{img_size: 64}'.",
            "aliases": ["--network_args"],
        },
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
    teacher_args: dict[str, Any] | None = field(
        default=None, metadata={"help": "Arguments of a teacher given by its timm name; see student_args."}
    )
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
        if self.preset not in PRESETS:
            raise unknown_name("preset", self.preset, PRESETS)
        if self.image_augmentation is not None and self.image_augmentation not in AUGMENTATIONS:
            raise unknown_name("image_augmentation", self.image_augmentation, tuple(AUGMENTATIONS))
        if self.image_size is not None:
            whole_number("image_size", self.image_size, hint="Leave it out for the data's size.")
        if self.train_points is not None:
            whole_number("train_points", self.train_points, hint="Leave it out for all points.")
        for name in ("teacher_checkpoint", "teacher_args", "assistants"):
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

    `given` are the options that the file or the command line gave, as they were given; `imports` are the user's modules
    that the run needs.
    """

    config: RunConfig
    args: DistillationConfig
    kcd: KCDConfig | None
    command: str
    given: Mapping[str, Any]
    imports: tuple[str, ...]

    @property
    def resumes(self) -> bool:
        """Whether an interrupted run is continued."""
        return self.config.resume or self.args.resume_from_checkpoint is not None

    def save(self, path: str | Path) -> None:
        """Write the recipe as a YAML file that `--config` takes."""
        values = {"import": list(self.imports) or None, **asdict(self.config)}
        values |= {name: getattr(self.args, name) for name in COMMON}
        # TrainingArguments turns some values into objects, so the others are written as they were given.
        own = sorted(field_names(DistillationConfig).intersection(self.given))
        values |= {name: self.given[name] for name in own if name not in COMMON}
        if self.kcd is None:
            del values["preset"]
        else:
            values |= self.kcd.to_dict()
        # An option that is not given has its default, which need not be None.
        kept = {key: value for key, value in values.items() if value is not None or key in own}
        kept = {key: value for key, value in kept.items() if key not in _NOT_IN_RECIPE}
        # JSON has no enumerations and no tuples.
        plain = json.loads(json.dumps(kept, default=lambda value: getattr(value, "value", str(value))))
        with atomic_file(path) as temporary:
            text = yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=120)
            temporary.write_text(text, encoding="utf-8")


def read_recipe(command: str, arguments: Sequence[str], **defaults: Any) -> Recipe:
    """Read a run from the words behind a command, and check it as far as possible without data and networks.

    `--config FILE` gives values that the other words override; `defaults` differ from the fields' own.
    """
    parser = RecipeParser(command, RunConfig)
    parser.set_defaults(logging_strategy="epoch", eval_strategy="epoch", **defaults)
    line = current_words(parser, arguments)
    file = parser.parse_known_args(line)[0].config
    of_file = {} if file is None else parser.values_of_file(find_recipe(file))
    namespace, unknown = parser.parse_known_args(line, argparse.Namespace(**of_file))
    if unknown:
        raise parser.unknown_option(f"option of hf-kcd {command}", unknown[0])
    values = vars(namespace)
    overrides = {name: values.pop(name) for name in field_names(KCDConfig) if name in values}
    from_line = parser.names_in(line)
    given = from_line | of_file.keys()
    for name in sorted(given.intersection(_OF_SCRIPTS)):
        raise ValueError(
            f"{name} is given, but only scripts of your own read it: leave it out. A run trains and evaluates."
        )
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
    config = RunConfig(**{name: values[name] for name in field_names(RunConfig)})
    if values["output_dir"] is None:
        raise ValueError("output_dir is missing: name the folder to write to, e.g. --output_dir runs/first.")
    # A configuration may change the values that it gets.
    as_given = {name: deepcopy(values[name]) for name in given if name in values}
    args = DistillationConfig(**{name: values[name] for name in field_names(DistillationConfig) if name in values})
    if command == "distill" and config.teacher is not None and not get_method(args.method).teacher_reads:
        # A recipe of a pair also serves to train the student alone, with --method ce.
        if "method" not in from_line or from_line.intersection(_TEACHER):
            raise ValueError(f"Method {args.method!r} has no teacher: leave teacher out, or choose another method.")
        config = replace(config, **dict.fromkeys(_TEACHER))
    kcd = PRESETS[config.preset](**overrides) if config.condense else None
    if kcd is None:
        # With --condense false on the command line, a recipe that condenses also serves without condensation.
        for name in sorted((from_line if "condense" in from_line else given) & (field_names(KCDConfig) | {"preset"})):
            raise ValueError(f"{name} is given but condense is not: add --condense, or leave {name} out.")
    if not args.push_to_hub:
        # With --push_to_hub false on the command line, a recipe that publishes also serves without.
        for name in sorted((from_line if "push_to_hub" in from_line else given).intersection(_OF_PUSH)):
            raise ValueError(f"{name} is given but push_to_hub is not: add --push_to_hub, or leave {name} out.")
    return Recipe(config, args, kcd, f"hf-kcd {command} {shlex.join(arguments)}", as_given, tuple(values["imports"]))
