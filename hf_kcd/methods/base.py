"""What a distillation method is: what it reads, what it trains, and the named parts of its loss."""

import math
from types import SimpleNamespace
from typing import ClassVar

from torch import Tensor, nn

from ..models import ModelOutputs, ModelSpec

Batch = dict[str, Tensor]


class DistillationMethod(nn.Module):
    """One way to distil: a module built from the specs of the two networks, under which the student is trained.

    A method declares what it reads from either network; whatever modules, parameters and buffers it registers (adapters,
    memories, peers, self-learning teachers) train with the student, are seen by DDP, and are saved and resumed with it,
    but never exported. It knows nothing of the Trainer and nothing of condensation: any method runs with and without.

    Args:
        student: What the student hands out. Of its features a spec says something only where the method reads them.
        teacher: What the teacher hands out; None when a student is trained alone.
        num_points: Number of points of the whole training set; point ids run from 0 to `num_points - 1`.
    """

    student_reads: ClassVar[frozenset[str]] = frozenset({"logits"})
    """What `forward` needs of the student: of "logits", "embedding", "features", "preactivations"."""

    teacher_reads: ClassVar[frozenset[str]] = frozenset({"logits"})
    """What `forward` needs of the teacher; empty for a method without one."""

    many_teachers: ClassVar[bool] = False
    """Whether it learns from several teachers: `teacher` is then a list, in the constructor and in `forward`."""

    teacher_batch_statistics: ClassVar[bool] = False
    """Whether the teacher's normalisations use the statistics of the batch; its running ones stay as they are."""

    copies_teacher: ClassVar[bool] = False
    """Whether it makes networks of the teacher's architecture, so that the teacher's answers alone are not enough."""

    unsynchronised_buffers: ClassVar[tuple[str, ...]] = ()
    """Names of large buffers that every process keeps equal by itself, so that DDP need not send them each step."""

    initialisation_epochs: int = 0
    """Epochs of a first phase, before the training proper, in which `initialisation_losses` are minimised instead."""

    initialisation_reads_student: ClassVar[bool] = True
    """Whether the first phase trains the student too; otherwise it is not run, and `student` is None in that phase."""

    initialisation_learning_rate: float | None = None
    """Learning rate of the first phase; None for that of the training."""

    initialisation_decay_epochs: tuple[float, ...] = ()
    """Epochs of the first phase after which its learning rate becomes a tenth."""

    name: ClassVar[str]
    """The name it is registered under."""

    def __init__(self, student: ModelSpec, teacher: "ModelSpec | list[ModelSpec] | None", num_points: int) -> None:
        super().__init__()
        self.student_spec = student
        self.teacher_spec = teacher
        self.num_points = num_points
        # Epochs trained so far, with fraction: what ramps and warm-ups are functions of. The trainer sets it.
        self.epoch = 0.0
        # Class of every point, int64 [num_points], on the CPU. The trainer sets it; nothing saves it.
        self.labels: Tensor | None = None

    def prepare_batch(self, batch: Batch, student: nn.Module) -> Batch:
        """Change the batch before the networks see it: rotate, mix, choose. The default returns it as it is.

        Args:
            batch: `pixel_values` [B, C, H, W] float, `labels` [B] int64, `point_ids` [B] int64, `partner_ids` [B] int64
                (-1: not mixed), `perturbation` [B] float32.
            student: The student network, for methods that look at it first.

        Returns:
            A batch with the same keys, of any number of rows, and whatever `forward` wants besides.
        """
        return batch

    def forward(self, student: ModelOutputs, teacher: ModelOutputs | None, batch: Batch) -> dict[str, Tensor]:
        """Compute the named parts of the loss, already weighted; what is minimised is their sum.

        Args:
            student: What `student_reads` names, with gradient.
            teacher: What `teacher_reads` names, without gradient; None when it is empty.
            batch: What `prepare_batch` returned.

        Returns:
            Scalars by name ("ce", "kd").
        """
        raise TypeError(f"{type(self).__name__} defines no forward: a method returns the parts of its loss there.")

    def initialisation_losses(
        self, student: ModelOutputs, teacher: ModelOutputs | None, batch: Batch
    ) -> dict[str, Tensor]:
        """Compute the named loss parts of the first phase; arguments and result as in `forward`."""
        return self.forward(student, teacher, batch)

    def valued_rows(self, batch: Batch) -> Tensor | slice:
        """Say which rows of the prepared batch stand for their points when these are valued: all of them by default."""
        return slice(None)

    def valued(self, student: ModelOutputs, teacher: ModelOutputs | None, batch: Batch) -> dict[str, Tensor]:
        """Hand out what points are valued by: by default the prepared batch's rows that `valued_rows` names.

        Args:
            student, teacher: As in `forward`; of several teachers the first.
            batch: What `prepare_batch` returned.

        Returns:
            `student_logits` [V, classes], without gradient, `labels` and `point_ids` [V]; with `teacher_logits` where the
            teacher has answered the same images.
        """
        rows = self.valued_rows(batch)
        found = {"student_logits": student.logits.detach(), "labels": batch["labels"], "point_ids": batch["point_ids"]}
        if teacher is not None and teacher.logits is not None:
            found["teacher_logits"] = teacher.logits
        return {name: values[rows] for name, values in found.items()}

    def networks(self) -> dict[str, nn.Module]:
        """Name the networks that learn along and are of use themselves (peers): each is evaluated, and saved beside the student.

        Returns:
            Networks of timm by name; none by default.
        """
        return {}

    @property
    def leaves_weights_out(self) -> bool:
        """Whether some step trains without some of the weights, for whose gradients DDP would wait."""
        return bool(self.initialisation_epochs)

    @property
    def first_phase(self) -> SimpleNamespace | None:
        """The epochs before the training proper; None for a method without them."""
        if not self.initialisation_epochs:
            return None
        return SimpleNamespace(
            epochs=self.initialisation_epochs,
            trains_student=self.initialisation_reads_student,
            learning_rate=self.initialisation_learning_rate,
            decay_epochs=self.initialisation_decay_epochs,
        )

    @property
    def has_unused_parameters(self) -> bool:
        """Whether some step trains without some of the weights, so that DDP must search for them."""
        return self.leaves_weights_out

    @property
    def step_cost(self) -> float | None:
        """What a step computes in relation to one of KD on the same drawn points; None where that is not known."""
        return None


def check_weights(**options: float) -> None:
    """Refuse weights of a loss that are NaN, infinite or negative.

    Args:
        **options: The weights by name.

    Raises:
        ValueError: Naming the weight and its value.
    """
    for name, value in options.items():
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"{name} is {value}: give a finite number that is not negative.")
