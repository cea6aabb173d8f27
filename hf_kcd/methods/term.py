"""The form of most methods: cross-entropy, KD, and one term of their own, each with its weight."""

from typing import Any

from torch import Tensor

from ..losses import cross_entropy_loss, kd_loss
from ..losses.common import check_temperature
from ..models import ModelOutputs, ModelSpec
from .base import Batch, DistillationMethod, check_weights


class TermMethod(DistillationMethod):
    """`ce_weight` CE + `kd_weight` T^2 KL + `weight` x the term that a subclass defines (RepDistiller's gamma, alpha, beta).

    Parts of weight 0 are left out. A subclass takes its own options and `**class_weights`, which are the last three.

    Args:
        student: What the student hands out.
        teacher: What the teacher hands out.
        num_points: Number of points of the whole training set.
        weight: Weight of the term.
        ce_weight: Weight of the cross-entropy with the labels.
        kd_weight: Weight of the softened divergence.
        temperature: T, positive.
    """

    teacher_reads = frozenset({"logits"})

    def __init__(
        self,
        student: ModelSpec,
        teacher: Any,
        num_points: int,
        *,
        weight: float,
        ce_weight: float = 1.0,
        kd_weight: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__(student, teacher, num_points)
        check_weights(weight=weight, ce_weight=ce_weight, kd_weight=kd_weight)
        check_temperature(temperature)
        self.weight = weight
        self.ce_weight = ce_weight
        self.kd_weight = kd_weight
        self.temperature = temperature

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        """Compute the method's own term, unweighted; arguments as in `forward`."""
        raise TypeError(f"{type(self).__name__} defines no term.")

    @property
    def leaves_weights_out(self) -> bool:
        # The adapters of a term that is not computed.
        return not self.weight or super().leaves_weights_out

    def ramp(self) -> float:
        """Say which share of the weight counts at `self.epoch`: all of it by default."""
        return 1.0

    def class_parts(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        """Compute the weighted "ce" and "kd" parts."""
        parts = {}
        if self.ce_weight:
            parts["ce"] = self.ce_weight * cross_entropy_loss(student.logits, batch["labels"])
        if self.kd_weight:
            parts["kd"] = self.kd_weight * kd_loss(student.logits, teacher.logits, self.temperature)
        return parts

    def forward(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        parts = self.class_parts(student, teacher, batch)
        if self.weight:
            parts[self.name] = self.weight * self.ramp() * self.term(student, teacher, batch)
        return parts
