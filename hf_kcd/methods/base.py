"""`DistillationMethod`, the interface of every method, and how a method is registered under its name."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ..errors import whole_number
from ..models import ModelOutputs, ModelSpec

Batch = dict[str, Tensor]
# The entries of a batch that are images: the student's, and a teacher's where they are larger.
IMAGES = frozenset({"pixel_values", "teacher_pixel_values"})


@dataclass(frozen=True)
class FirstPhase:
    """A phase before the training, which minimizes a method's `first_phase_losses`.

    Args:
        epochs: Its epochs, at least 1.
        trains_student: Whether it trains the student too. Otherwise it does not run the student, and the losses get None.
        learning_rate: Its learning rate; None for the training's.
        decay_epochs: Its epochs after which the learning rate becomes a tenth.
    """

    epochs: int
    trains_student: bool = True
    learning_rate: float | None = None
    decay_epochs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "epochs", whole_number("first_phase_epochs", self.epochs))
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError(f"first_phase_learning_rate is {self.learning_rate}: give a number above 0, or None.")


class DistillationMethod(nn.Module):
    """One way to distill: a module built from the specs of two networks, under which the student is trained.

    The modules, parameters and buffers it registers (adapters, memories, peers) train with the student and are in checkpoints,
    but are never exported. A method knows neither the Trainer nor condensation.

    Args:
        student: The student's spec. It describes features only if the method reads them.
        teacher: The teacher's spec, a list of them with `many_teachers`, or None without a teacher.
        num_points: Number of points of the whole training set; point ids run from 0 to `num_points - 1`.
    """

    # The name it is registered under; authors, venue and year of its paper.
    name: ClassVar[str]
    paper: ClassVar[str] = ""
    # What it reads from both networks: of "logits", "embedding", "features", "preactivations".
    reads: ClassVar[Collection[str]] = ("logits",)
    # What it reads from one of them, where they differ; by default `reads`. Empty for a method without a teacher.
    student_reads: ClassVar[frozenset[str]] = frozenset({"logits"})
    teacher_reads: ClassVar[frozenset[str]] = frozenset({"logits"})
    # Whether it learns from several teachers; the constructor and `forward` then get lists.
    many_teachers: ClassVar[bool] = False
    # The fewest points of a batch that its loss learns from: more than one where it compares them.
    fewest_points: ClassVar[int] = 1
    # Whether the teacher normalizes with the statistics of the batch; its running statistics stay unchanged.
    teacher_batch_statistics: ClassVar[bool] = False
    # Whether it creates networks of the teacher's architecture, so that stored logits of the teacher are not enough.
    copies_teacher: ClassVar[bool] = False
    # Whether `prepare_batch` also changes `teacher_pixel_values`, the larger images of a teacher. A method that overrides it and
    # does not say so gets none: its teacher sees the student's images.
    prepares_teacher_images: ClassVar[bool] = False
    # Names of large buffers that every process keeps equal by itself, so that DDP need not send them in each step.
    unsynchronized_buffers: ClassVar[tuple[str, ...]] = ()
    # The phase before the training, if there is one.
    first_phase: FirstPhase | None = None

    def __init_subclass__(cls, **kwargs) -> None:
        super().__init_subclass__(**kwargs)
        for side in ("student_reads", "teacher_reads"):
            declared = vars(cls).get(side, vars(cls).get("reads"))
            if declared is not None:
                setattr(cls, side, frozenset(declared))

    def __init__(self, student: ModelSpec, teacher: ModelSpec | list[ModelSpec] | None, num_points: int) -> None:
        super().__init__()
        self.student_spec = student
        self.teacher_spec = teacher
        self.num_points = num_points
        # Epochs trained so far, with their fraction, for ramps and warm-ups. The trainer sets it.
        self.epoch = 0.0
        # Class of every point, int64 [num_points], on the CPU. The trainer sets it; checkpoints do not hold it.
        self.labels: Tensor | None = None

    def prepare_batch(self, batch: Batch, student: nn.Module) -> Batch:
        """Change the batch before the networks see it: rotate, mix, choose. By default nothing changes.

        Args:
            batch: `pixel_values` [B, C, H, W] float, `labels` [B] int64, `point_ids` [B] int64, `partner_ids` [B] int64
                (-1: not mixed), `perturbation` [B] float32; for a teacher of larger images, and where the method
                `prepares_teacher_images`, the same images as `teacher_pixel_values` [B, C, h, w].
            student: The student network, for methods that run it first.

        Returns:
            A batch with the same keys and any number of rows, and further entries that `forward` needs.
        """
        return batch

    def num_rows(self, num_points: int) -> int:
        """Return the rows of the batch that `prepare_batch` makes of a number of points; by default as many."""
        return num_points

    def forward(self, student: ModelOutputs, teacher: ModelOutputs | None, batch: Batch) -> dict[str, Tensor]:
        """Compute the named parts of the loss, already weighted; training minimizes their sum.

        Args:
            student: The outputs that `student_reads` names, with gradient.
            teacher: The outputs that `teacher_reads` names, without gradient; None when it is empty.
            batch: What `prepare_batch` returned.

        Returns:
            Scalars by name ("ce", "kd").
        """
        raise TypeError(f"{type(self).__name__} defines no forward: a method returns the parts of its loss there.")

    def first_phase_losses(
        self, student: ModelOutputs | None, teacher: ModelOutputs | None, batch: Batch
    ) -> dict[str, Tensor]:
        """Compute the named loss parts of the first phase; arguments and result as in `forward`."""
        return self.forward(student, teacher, batch)

    def point_rows(self, batch: Batch) -> Tensor | slice:
        """Return the rows of the prepared batch that show their points, one row per point; by default all of them."""
        return slice(None)

    def observation(self, student: ModelOutputs, teacher: ModelOutputs | None, batch: Batch) -> dict[str, Tensor]:
        """Return what the values of points are computed from; by default the rows that `point_rows` names.

        Arguments as in `forward`; of several teachers the first.

        Returns:
            `student_logits` [V, classes], without gradient, `labels` and `point_ids` [V], and `teacher_logits` if the
            teacher has seen the same images.
        """
        rows = self.point_rows(batch)
        found = {"student_logits": student.logits.detach(), "labels": batch["labels"], "point_ids": batch["point_ids"]}
        if teacher is not None and teacher.logits is not None:
            found["teacher_logits"] = teacher.logits
        return {name: values[rows] for name, values in found.items()}

    def networks(self) -> dict[str, nn.Module]:
        """Return the timm networks that train along, by name: each is evaluated and saved too; by default none."""
        return {}

    @property
    def has_unused_parameters(self) -> bool:
        """Whether some training step leaves out some parameters, for whose gradients DDP would wait."""
        return self.first_phase is not None

    @property
    def step_cost(self) -> float | None:
        """Computation of a step relative to a step of KD on the same drawn points; None if unknown."""
        return None


METHODS: dict[str, type[DistillationMethod]] = {}


def register_method(name: str) -> Callable[[type[DistillationMethod]], type[DistillationMethod]]:
    """Register a `DistillationMethod` class under a name, such as the acronym of its paper in lower case (a decorator).

    Raises:
        ValueError: When the name is taken.
        TypeError: When the class is not a `DistillationMethod`.
    """

    def register(cls: type[DistillationMethod]) -> type[DistillationMethod]:
        if name in METHODS:
            raise ValueError(f"{name!r} is registered already, as {METHODS[name].__qualname__}: choose another.")
        if not (isinstance(cls, type) and issubclass(cls, DistillationMethod)):
            raise TypeError(f"{cls!r} is not a class derived from hf_kcd.methods.DistillationMethod.")
        cls.name = name
        METHODS[name] = cls
        return cls

    return register


def check_weights(**weights: float) -> None:
    """Refuse weights, by name, that are NaN, infinite or negative."""
    for name, value in weights.items():
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"{name} is {value}: give a finite number that is not negative.")


def warm_up(epoch: float, warmup_epochs: float) -> float:
    """Return the share of a weight at an epoch: it rises linearly from 0 to 1 over `warmup_epochs`, 0 for at once."""
    return min(1.0, epoch / warmup_epochs) if warmup_epochs else 1.0
