"""The form of most methods: cross-entropy, KD and one term of their own, each with its weight."""

from torch import Tensor

from ..losses import cross_entropy_loss, kd_loss
from ..losses.common import check_temperature
from ..models import ModelOutputs, ModelSpec
from .base import Batch, DistillationMethod, FirstPhase, check_weights


class TermMethod(DistillationMethod):
    """`ce_weight` CE + `kd_weight` T^2 KL + `weight` x the term that a subclass defines (RepDistiller's gamma, alpha, beta).

    Parts of weight 0 are left out. A subclass sets the default of `weight` as a class attribute. It needs a constructor only
    for modules or options of its own, and passes `**options` on.

    Args:
        student, teacher, num_points: As in `DistillationMethod`.
        weight, ce_weight, kd_weight: Weights of the term, the cross-entropy with the labels, and the softened divergence.
        temperature: T, positive.
    """

    weight: float = 1.0

    def __init__(
        self,
        student: ModelSpec,
        teacher: ModelSpec | list[ModelSpec] | None,
        num_points: int,
        *,
        weight: float | None = None,
        ce_weight: float = 1.0,
        kd_weight: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__(student, teacher, num_points)
        self.weight = self.weight if weight is None else weight
        check_weights(weight=self.weight, ce_weight=ce_weight, kd_weight=kd_weight)
        check_temperature(temperature)
        if temperature != 4.0 and not kd_weight:
            raise ValueError(f"temperature is {temperature}, but it is KD's, whose kd_weight is 0: set kd_weight too.")
        self.ce_weight = ce_weight
        self.kd_weight = kd_weight
        self.temperature = temperature

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        """Compute the method's own term, unweighted; arguments as in `forward`."""
        raise TypeError(f"{type(self).__name__} defines no term.")

    @property
    def has_unused_parameters(self) -> bool:
        return not self.weight or super().has_unused_parameters

    def ramp(self) -> float:
        """Return the share of the weight that counts at `self.epoch`; by default all of it."""
        return 1.0

    def ce_and_kd(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        """Compute the weighted "ce" and "kd" parts."""
        parts = {}
        if self.ce_weight:
            parts["ce"] = self.ce_weight * cross_entropy_loss(student.logits, batch["labels"])
        if self.kd_weight:
            parts["kd"] = self.kd_weight * kd_loss(student.logits, teacher.logits, self.temperature)
        return parts

    def forward(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        parts = self.ce_and_kd(student, teacher, batch)
        if self.weight:
            parts[self.name] = self.weight * self.ramp() * self.term(student, teacher, batch)
        return parts


class FirstPhaseMethod(TermMethod):
    """`weight` x the term alone in a first phase, then the others without it; a `TermMethod` without a first phase.

    Args:
        first_phase_epochs: Epochs of the first phase; 0 for none.

    Raises:
        ValueError: When one of the two phases would have no loss.
    """

    first_phase_epochs: int = 30

    def __init__(self, *args, first_phase_epochs: int | None = None, **options) -> None:
        super().__init__(*args, **options)
        epochs = self.first_phase_epochs if first_phase_epochs is None else first_phase_epochs
        self.first_phase = FirstPhase(epochs) if epochs else None
        if self.first_phase and not (self.weight and self.ce_weight + self.kd_weight):
            given = f"weight is {self.weight}, ce_weight {self.ce_weight}, kd_weight {self.kd_weight}"
            raise ValueError(f"{given}: give the term and one other a weight above 0, or set first_phase_epochs to 0.")

    def first_phase_losses(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        return {self.name: self.weight * self.term(student, teacher, batch)}

    def forward(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        return (self.ce_and_kd if self.first_phase else super().forward)(student, teacher, batch)
