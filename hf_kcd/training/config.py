"""`DistillationConfig`: how to train."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from ..condensation.config import option
from ..errors import unknown_name, whole_number
from ..methods import available_methods, renamed_options
from ..models import STAGES
from .schedules import default_decay_epochs, learning_rate_factor


@dataclass
class DistillationConfig(TrainingArguments):
    """`transformers.TrainingArguments` with the defaults of CIFAR-100 distillation, and fields for distillation.

    Other fields keep their meaning, with three exceptions: the learning rate follows `lr_schedule` in epochs
    (`lr_scheduler_type` and `warmup_steps` are refused), `num_train_epochs` is a whole number, and `max_steps` stops the
    training without changing its schedule.

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
    per_device_train_batch_size: int = option(64, "Images per device and step.")
    per_device_eval_batch_size: int = option(256, "Images per device and evaluation step.")

    learning_rate: float = option(0.05, "Base learning rate (0.01 for MobileNet and ShuffleNet).")
    lr_schedule: str = option("multistep", "Learning rate over epochs: 'multistep', 'cosine' or 'constant'.")
    lr_decay_epochs: list[float] | None = option(
        None, "Epochs after which 'multistep' decays; by default after 5/8, 6/8 and 7/8 of the epochs."
    )
    lr_decay_rate: float = option(0.1, "Factor of each decay of 'multistep'.")
    warmup_epochs: float = option(0.0, "Epochs of linear warm-up from 0.")

    optim: str = option("sgd", "Optimizer, any of TrainingArguments.")
    momentum: float = option(0.9, "Momentum of SGD.")
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
        strategy = HubStrategy(self.hub_strategy)
        pushes_checkpoints = strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS)
        scheduler = str(getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type))
        for wrong, message in (
            (self.hub_token is not None, "hub_token would be written to disk: use `hf auth login` or HF_TOKEN."),
            (
                pushes_checkpoints,
                f"hub_strategy is {strategy.value!r}, but checkpoints hold pickles, which are not published: use "
                "'every_save' or 'end'.",
            ),
            (
                scheduler != "linear" or self.warmup_steps,
                "lr_scheduler_type and warmup_steps count steps, and condensation reduces their number. Use lr_schedule "
                "('multistep', 'cosine', 'constant') and warmup_epochs.",
            ),
            (self.auto_find_batch_size, "auto_find_batch_size changes the steps: set the batch size yourself."),
            (
                self.label_smoothing_factor,
                f"label_smoothing_factor is {self.label_smoothing_factor}, but the method computes the loss: leave it out.",
            ),
            (self.ignore_data_skip, "ignore_data_skip would give a resumed epoch too many steps: leave it out."),
        ):
            if wrong:
                raise ValueError(message)
        fixed = {"remove_unused_columns": False, "label_names": ["labels"], "logging_nan_inf_filter": False}
        for name, value in fixed.items():
            if getattr(self, name) != value:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but the trainer needs {value!r}: leave it out.")
        whole_number("per_device_train_batch_size", self.per_device_train_batch_size)
        if self.method not in available_methods():
            raise unknown_name("method", self.method, available_methods())
        self.method_options = renamed_options(self.method, _mapping("method_options", self.method_options))
        self.student_layers = _layers("student_layers", self.student_layers)
        self.teacher_layers = _layers("teacher_layers", self.teacher_layers)
        hint = "An epoch is a whole pass over the selected points; max_steps can stop earlier."
        self.num_train_epochs = whole_number("num_train_epochs", self.num_train_epochs, hint=hint)
        if self.lr_decay_epochs is None:
            self.lr_decay_epochs = default_decay_epochs(self.num_train_epochs)
        self.learning_rate_factor()
        if not torch.accelerator.is_available():
            # Without an accelerator, pinned memory only causes a warning.
            self.dataloader_pin_memory = False
        super().__post_init__()

    def learning_rate_factor(self):
        """Return the factor on `learning_rate` as a function of epochs; see `schedules.learning_rate_factor`."""
        return learning_rate_factor(
            self.lr_schedule, self.num_train_epochs, self.lr_decay_epochs, self.lr_decay_rate, self.warmup_epochs
        )


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
