"""`DistillationConfig`: how to train."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType

from ..condensation.config import option
from ..errors import unknown_name, whole_number
from ..methods import available_methods, method_options, renamed_options
from ..models import STAGES
from .launch import check_launch, follow_launcher
from .optimizers import TIMM, check_optimizer_name, check_optimizer_settings, default_learning_rate
from .schedules import check_scheduler, default_decay_epochs, learning_rate_factor
from .training_arguments import check_accelerator, check_fields

_SCHEDULERS = [one.value for one in SchedulerType]


@dataclass
class DistillationConfig(TrainingArguments):
    """`transformers.TrainingArguments` with the defaults of CIFAR-100 distillation, and fields for distillation.

    Other fields keep their meaning or are refused by name; `docs/trainer.md` lists them all. The learning rate follows
    `lr_schedule`, or else `lr_scheduler_type` stretched over the epochs; `num_train_epochs` is a whole number; `max_steps`
    stops the training without changing its schedule.

    Raises:
        ValueError: When a field cannot be used, with its value and what to do.
    """

    method: str = option("kd", "Distillation method, one of hf_kcd.methods.available_methods().")
    method_options: dict[str, Any] | str | None = option(
        None, "Options of the method as JSON or a YAML mapping, e.g. '{\"temperature\": 2}'."
    )

    student_layers: list[str] | None = option(
        None,
        "The student's feature maps that a method compares: positions such as 2 5 8, or 'stages' for the deepest "
        "map of each size; by default all maps.",
    )
    teacher_layers: list[str] | None = option(None, "The teacher's feature maps to compare; see student_layers.")

    num_train_epochs: float = option(240, "Epochs of training, a whole number.")
    max_steps: int = option(
        -1, "Stop after this many steps; the schedule stays that of num_train_epochs, which must be long enough."
    )
    per_device_train_batch_size: int = option(64, "Images per device and step.")
    per_device_eval_batch_size: int = option(256, "Images per device and evaluation step.")

    learning_rate: float | None = option(
        None, "Base learning rate; 0.05 by default, for SGD alone (0.01 for MobileNet and ShuffleNet)."
    )
    lr_schedule: str = option("multistep", "Learning rate over epochs: 'multistep', 'cosine' or 'constant'.")
    lr_decay_epochs: list[float] | None = option(
        None, "Epochs after which 'multistep' decays; by default after 5/8, 6/8 and 7/8 of the epochs."
    )
    lr_decay_rate: float = option(0.1, "Factor of each decay of 'multistep'.")
    warmup_epochs: float = option(0.0, "Epochs of linear warm-up from 0.")
    lr_scheduler_type: str | None = option(
        None,
        f"Instead of lr_schedule, a scheduler of transformers, stretched over the epochs: {', '.join(_SCHEDULERS)}.",
    )

    optim: str = option(
        "sgd",
        "Optimizer: one of TrainingArguments, or timm:NAME for one of timm's, e.g. timm:adamw, with timm's groups "
        "for weight decay.",
    )
    optim_args: str | None = option(
        None,
        "Options of the optimizer as name=value pairs; for timm also layer_decay=0.75 (layer-wise learning rates) and "
        "filter_bias_and_bn=false.",
    )
    momentum: float = option(0.9, "Momentum of SGD, and of timm's optimizers that have it.")
    nesterov: bool = option(False, "Use Nesterov momentum.")
    weight_decay: float = option(5e-4, "Weight decay, on all weights as in the published recipes.")
    max_grad_norm: float = option(0.0, "Clip the gradient to this norm; 0 does not clip.")
    log_grad_norm: bool = option(False, "Compute and log the gradient's norm (costs time).")

    channels_last: bool = option(True, "Keep images and convolutions in the channels-last memory format (faster).")

    logging_steps: float = option(100, "Steps between two log lines.")
    save_strategy: str = option("epoch", "When to write a checkpoint.")
    save_total_limit: int | None = option(2, "Number of checkpoints to keep.")
    metric_for_best_model: str | None = option("top1", "Metric that decides which model is best.")

    # The trainer needs these values: batches carry more than the student's forward takes, filtering NaN on the host would
    # sync every step, and DDP must search for unused weights only under methods that have them.
    remove_unused_columns: bool = option(False, "Fixed: batches carry point ids.")
    label_names: list[str] | None = field(default_factory=lambda: ["labels"], metadata={"help": "Fixed: ['labels']."})
    logging_nan_inf_filter: bool = option(False, "Fixed: NaN and inf are reported instead.")
    ddp_find_unused_parameters: bool | None = option(False, "DDP searches for unused weights.")

    def __post_init__(self) -> None:
        self.optim, self.lr_scheduler_type = _plain(self.optim), _plain(self.lr_scheduler_type)
        check_fields(self)
        check_optimizer_name(self.optim)
        self._check_numbers()
        if self.method not in available_methods():
            raise unknown_name("method", self.method, available_methods())
        self.method_options = renamed_options(self.method, _mapping("method_options", self.method_options))
        self.student_layers = _layers("student_layers", self.student_layers)
        self.teacher_layers = _layers("teacher_layers", self.teacher_layers)
        self._check_schedule()
        follow_launcher(self)
        if not torch.accelerator.is_available():
            # Without an accelerator, pinned memory only causes a warning.
            self.dataloader_pin_memory = False
        self._set_up()
        check_launch(self)
        check_accelerator(self)
        check_optimizer_settings(self, first_phase="first_phase_epochs" in method_options(self.method))
        check_scheduler(self)

    def learning_rate_factor(self):
        """Return the factor on `learning_rate` as a function of epochs; see `schedules.learning_rate_factor`."""
        return learning_rate_factor(
            self.lr_schedule, self.num_train_epochs, self.lr_decay_epochs or [], self.lr_decay_rate, self.warmup_epochs
        )

    def _check_numbers(self) -> None:
        hint = "An epoch is a whole pass over the selected points; max_steps can stop earlier."
        self.num_train_epochs = whole_number("num_train_epochs", self.num_train_epochs, hint=hint)
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            whole_number(name, getattr(self, name))
        if self.learning_rate is None:
            self.learning_rate = default_learning_rate(self.optim)
        for name in ("learning_rate", "lr_decay_rate", "momentum", "weight_decay", "max_grad_norm"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value!r}: give a finite number that is not negative.")

    def _check_schedule(self) -> None:
        """Refuse settings of a schedule that is not chosen."""
        usual = default_decay_epochs(self.num_train_epochs)
        chosen, multistep = f"lr_schedule={self.lr_schedule!r}", self.lr_schedule == "multistep"
        if self.lr_scheduler_type is not None:
            if self.lr_scheduler_type not in _SCHEDULERS:
                raise unknown_name("lr_scheduler_type", self.lr_scheduler_type, _SCHEDULERS)
            chosen, multistep = f"lr_scheduler_type={self.lr_scheduler_type!r}", False
            for name, default in (("lr_schedule", "multistep"), ("warmup_epochs", 0)):
                if getattr(self, name) != default:
                    raise ValueError(f"{name} is {getattr(self, name)!r}, but {chosen} is given too: leave one out.")
        if not multistep:
            # Recipes of earlier versions write the usual decays under every schedule.
            for name, unset in (("lr_decay_epochs", (None, [], usual)), ("lr_decay_rate", (0.1,))):
                if getattr(self, name) not in unset:
                    raise ValueError(f"{name} is {getattr(self, name)}, but {chosen} has no decays: leave it out.")
            self.lr_decay_epochs = None
        elif self.lr_decay_epochs is None:
            self.lr_decay_epochs = usual
        if self.lr_scheduler_type is None:
            self.learning_rate_factor()

    def _set_up(self) -> None:
        """Let transformers set up the rest, which knows neither timm's optimizers nor our schedules."""
        optim, scheduler = self.optim, self.lr_scheduler_type
        self.optim = "sgd" if optim.startswith(TIMM) else optim
        self.lr_scheduler_type = scheduler or "constant"
        super().__post_init__()
        self.optim, self.lr_scheduler_type = optim, scheduler


def _plain(value: Any) -> Any:
    """Return the value of an enumeration's member, and anything else as it is."""
    return getattr(value, "value", value)


def _mapping(name: str, value: dict | str | None) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, str):
        import yaml

        value = yaml.safe_load(value)
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r}: give a mapping, e.g. '{{\"temperature\": 2}}'.")
    return value


def _layers(name: str, value: Sequence[str | int] | str | int | None) -> list[int] | str | None:
    """Parse a choice of layers from the command line, a file or Python."""
    if value is None:
        return None
    words = [value] if isinstance(value, str | int) else list(value)
    if words == [STAGES]:
        return STAGES
    try:
        return [int(word) for word in words]
    except ValueError as error:
        raise ValueError(f"{name} is {value!r}: give positions such as 2 5 8, or the word '{STAGES}'.") from error
