"""What a run is told: `DistillationConfig` (how to train) and `KCDConfig` (how to condense)."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from ..condensation import CondensationSchedule, available_values
from ..errors import unknown_name
from ..methods import available_methods, renamed_options
from ..models import STAGES
from .schedules import default_decay_epochs, learning_rate_factor


@dataclass
class DistillationConfig(TrainingArguments):
    """`transformers.TrainingArguments` with the defaults of CIFAR-100 distillation and the fields that distilling adds.

    Every other field of `TrainingArguments` keeps its meaning, but for three: the learning rate follows `lr_schedule` in
    epochs (`lr_scheduler_type` and `warmup_steps` are refused), `num_train_epochs` is whole, and `max_steps` is a cap that
    leaves the schedule as it is.

    Raises:
        ValueError: When a field cannot be honoured, with its value and what to do.
    """

    method: str = field(
        default="kd", metadata={"help": "Distillation method, one of hf_kcd.methods.available_methods()."}
    )
    method_options: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Options of the method as JSON or a YAML mapping, e.g. '{\"temperature\": 2}'."},
    )

    student_layers: list[str] | None = field(
        default=None,
        metadata={
            "help": "The student's maps that a method compares: positions such as 2 5 8, or 'stages' for the deepest of "
            "each size; all of them without it."
        },
    )
    teacher_layers: list[str] | None = field(
        default=None, metadata={"help": "The teacher's maps that a method compares, given as student_layers."}
    )

    num_train_epochs: float = field(default=240, metadata={"help": "Epochs of training, a whole number."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Images per device and step."})
    per_device_eval_batch_size: int = field(default=256, metadata={"help": "Images per device and evaluation step."})

    learning_rate: float = field(
        default=0.05, metadata={"help": "Base learning rate (0.01 for MobileNet and ShuffleNet)."}
    )
    lr_schedule: str = field(
        default="multistep", metadata={"help": "Learning rate over epochs: 'multistep', 'cosine' or 'constant'."}
    )
    lr_decay_epochs: list[float] | None = field(
        default=None,
        metadata={"help": "Epochs after which 'multistep' decays; after 5/8, 6/8 and 7/8 of the epochs without it."},
    )
    lr_decay_rate: float = field(default=0.1, metadata={"help": "Factor of each decay of 'multistep'."})
    warmup_epochs: float = field(default=0.0, metadata={"help": "Epochs of linear warm-up from 0."})

    optim: str = field(default="sgd", metadata={"help": "Optimiser, any of TrainingArguments."})
    momentum: float = field(default=0.9, metadata={"help": "Momentum of SGD."})
    nesterov: bool = field(default=False, metadata={"help": "Nesterov's form of the momentum."})
    weight_decay: float = field(
        default=5e-4, metadata={"help": "Weight decay, on all weights as in the field's recipes."}
    )
    max_grad_norm: float = field(default=0.0, metadata={"help": "Clip the gradient to this norm; 0 does not clip."})
    log_grad_norm: bool = field(default=False, metadata={"help": "Compute and log the gradient's norm (costs time)."})

    channels_last: bool = field(
        default=True, metadata={"help": "Keep images and convolutions in the channels-last memory format (faster)."}
    )

    logging_steps: float = field(default=100, metadata={"help": "Steps between two lines of the log."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to write a checkpoint."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints that are kept."})
    metric_for_best_model: str | None = field(default="top1", metadata={"help": "What makes a model the best."})

    # What follows is not a matter of taste: batches carry more than the student's forward takes, a sum with NaN filtered
    # out on the host syncs every step, and DDP need not look for unused weights where there are none.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Fixed: batches carry point ids."})
    label_names: list[str] | None = field(default_factory=lambda: ["labels"], metadata={"help": "Fixed: ['labels']."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Fixed: NaN and inf are reported instead."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "DDP searches for unused weights."}
    )

    def __post_init__(self) -> None:
        if self.hub_token is not None:
            raise ValueError(
                "hub_token would be written to disk with the run. Log in with `hf auth login` or set HF_TOKEN instead."
            )
        if HubStrategy(self.hub_strategy) in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            raise ValueError(
                f"hub_strategy is {HubStrategy(self.hub_strategy).value!r}, but checkpoints hold pickles and the optimiser's state, "
                "which are not published: take 'every_save' or 'end'."
            )
        if self.method not in available_methods():
            raise unknown_name("method", self.method, available_methods())
        self.method_options = renamed_options(self.method, _mapping("method_options", self.method_options))
        self.student_layers = _layers("student_layers", self.student_layers)
        self.teacher_layers = _layers("teacher_layers", self.teacher_layers)
        self.num_train_epochs = whole_epochs(self.num_train_epochs)
        if str(getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type)) != "linear" or self.warmup_steps:
            raise ValueError(
                "lr_scheduler_type and warmup_steps count steps, which condensation makes fewer. Use lr_schedule "
                "('multistep', 'cosine', 'constant') and warmup_epochs."
            )
        if self.lr_decay_epochs is None:
            self.lr_decay_epochs = default_decay_epochs(self.num_train_epochs)
        self.learning_rate_factor()
        if self.auto_find_batch_size:
            raise ValueError(
                "auto_find_batch_size changes the number of steps while training: set the batch size yourself."
            )
        if self.label_smoothing_factor:
            raise ValueError(
                f"label_smoothing_factor is {self.label_smoothing_factor}, but the method computes the loss: leave it out."
            )
        if self.ignore_data_skip:
            raise ValueError(
                "ignore_data_skip would begin a resumed epoch anew, with more steps than it has: leave it out."
            )
        for name, value in (
            ("remove_unused_columns", False),
            ("label_names", ["labels"]),
            ("logging_nan_inf_filter", False),
        ):
            if getattr(self, name) != value:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}: DistillationTrainer works with {value!r} alone; leave it out."
                )
        if self.per_device_train_batch_size < 1:
            raise ValueError(f"per_device_train_batch_size is {self.per_device_train_batch_size}: give at least 1.")
        if not torch.accelerator.is_available():
            # Pinned memory serves the copy to an accelerator; asking for it without one only warns.
            self.dataloader_pin_memory = False
        super().__post_init__()

    def learning_rate_factor(self):
        """Make the factor on `learning_rate` as a function of epochs, see `schedules.learning_rate_factor`."""
        return learning_rate_factor(
            self.lr_schedule, self.num_train_epochs, self.lr_decay_epochs, self.lr_decay_rate, self.warmup_epochs
        )


def whole_epochs(value: float) -> int:
    """Check a number of epochs.

    Raises:
        ValueError: When it is not a whole number of at least 1.
    """
    if not math.isfinite(value) or value != int(value) or value < 1:
        raise ValueError(
            f"num_train_epochs is {value}: an epoch is a whole pass over the selected points, so give a whole number of at "
            "least 1 (max_steps stops earlier)."
        )
    return int(value)


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
    """Take a choice of layers as the command line, a file or Python gives it."""
    if value is None:
        return None
    words = [value] if isinstance(value, str | int) else list(value)
    if words == [STAGES]:
        return STAGES
    try:
        return [int(word) for word in words]
    except ValueError as error:
        raise ValueError(f"{name} is {value!r}: give positions such as 2 5 8, or the word '{STAGES}'.") from error


@dataclass(frozen=True)
class KCDConfig:
    """How knowledge is condensed: Algorithm 1 of the paper, every switch of its Table 4 a field.

    `KCDConfig()` is the paper; `KCDConfig.released_code()` is what the authors' program does.

    Raises:
        ValueError: When a field is out of its range, with its value and what to do.
    """

    final_ratio: float = field(default=0.7, metadata={"help": "rho: share of the points kept at the end, in (0, 1]."})
    epochs_per_stage: int = field(default=40, metadata={"help": "T: epochs between two selections."})
    shape: str = field(
        default="exponential", metadata={"help": "How the kept share falls over stages: 'exponential' or 'linear'."}
    )
    first_selection: str = field(
        default="after_first_epoch", metadata={"help": "First selection: 'after_first_epoch' or 'after_first_stage'."}
    )
    value: str = field(default="entropy", metadata={"help": "What a point is worth, one of the registered values."})
    online_recording: bool = field(
        default=True, metadata={"help": "Value a point by its mean over epochs (Eq. 12), not by its last epoch alone."}
    )
    cost_exponent: float = field(
        default=0.03, metadata={"help": "alpha of the cost-aware ranking (Eq. 13); 0 turns it off."}
    )
    augmentation: str = field(
        default="adaptive", metadata={"help": "Mixing of borderline points: 'adaptive' (Eq. 15), 'fixed' or 'none'."}
    )
    max_perturbation: float = field(
        default=0.3, metadata={"help": "epsilon_m: the largest share of a partner, in [0, 1]."}
    )
    partners: str = field(
        default="discarded", metadata={"help": "Who is mixed in: all 'discarded' points or the 'newly_discarded'."}
    )
    cumulative_mixing: bool = field(
        default=False,
        metadata={"help": "Mix into the 8-bit images for good, stage after stage, as the released code does."},
    )

    def __post_init__(self) -> None:
        # Epochs and points are checked by the schedule, once their numbers are known.
        if not isinstance(self.final_ratio, (int, float)) or not 0 < self.final_ratio <= 1:
            raise ValueError(
                f"final_ratio is {self.final_ratio}: give the share of points to keep, above 0 and up to 1."
            )
        if self.value not in available_values():
            raise unknown_name("value", self.value, available_values())
        for name, valid in (
            ("shape", ("exponential", "linear")),
            ("first_selection", ("after_first_epoch", "after_first_stage")),
            ("augmentation", ("adaptive", "fixed", "none")),
            ("partners", ("discarded", "newly_discarded")),
        ):
            if getattr(self, name) not in valid:
                raise unknown_name(name, getattr(self, name), valid)
        if not 0 <= self.max_perturbation <= 1:
            raise ValueError(
                f"max_perturbation is {self.max_perturbation}: give a share from 0 to 1; the paper uses 0.3."
            )
        if not math.isfinite(self.cost_exponent):
            raise ValueError(f"cost_exponent is {self.cost_exponent}: give a finite number; the paper uses 0.03.")

    @classmethod
    def paper(cls, **overrides: Any) -> "KCDConfig":
        """Make the paper's configuration, which is the default, with single fields overridden."""
        return replace(cls(), **overrides)

    @classmethod
    def released_code(cls, **overrides: Any) -> "KCDConfig":
        """Make the configuration of the authors' program, with single fields overridden.

        Linear sizes, first selection after stage one, only the newly discarded ranks as partners, cumulative mixing on the
        8-bit images.
        """
        preset = cls(
            shape="linear", first_selection="after_first_stage", partners="newly_discarded", cumulative_mixing=True
        )
        return replace(preset, **overrides)

    def schedule(self, num_points: int, num_epochs: int) -> CondensationSchedule:
        """Make the schedule of a run.

        Args:
            num_points: Number of points of the whole training set.
            num_epochs: Epochs of training.
        """
        return CondensationSchedule(
            num_points, num_epochs, self.epochs_per_stage, self.final_ratio, self.shape, self.first_selection
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "KCDConfig":
        """From a mapping of fields.

        Raises:
            ValueError: For a name that is no field.
        """
        names = [f.name for f in fields(cls)]
        for name in values:
            if name not in names:
                raise unknown_name("field of KCDConfig", name, names)
        return cls(**values)
