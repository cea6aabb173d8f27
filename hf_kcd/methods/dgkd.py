"""DGKD: the student learns from the teacher and from all assistants at once, of which some are dropped by chance (Son et al., 2021)."""

import torch
from torch import Tensor

from ..losses import cross_entropy_loss, kd_loss
from ..losses.common import check_temperature
from ..models import ModelOutputs, ModelSpec
from .base import Batch, DistillationMethod
from .registry import register_method
from .takd import check_share


@register_method("dgkd")
class DGKD(DistillationMethod):
    """(1 - `kd_weight`) CE + `kd_weight` x the sum over the teacher and its assistants of T^2 KL(teacher || student).

    In each step `num_dropped` of them, the teacher included, are left out by chance, but never the last one: an assistant
    that learns from the teacher alone drops nothing. What is left out is drawn from PyTorch's generator of the device, whose
    state is in every checkpoint. The whole chain is `hf-kcd distill --teacher T --assistants A1 A2 --student S`. A point's
    value is taken from the student's logits, a divergence as a value from the teacher's own.

    The reference code averages the divergence over the classes too, so that its term is C times smaller. Its other values
    are the defaults: T 5, nothing but the divergences, one source dropped.

    Args:
        student, num_points: As in `DistillationMethod`.
        teacher: The teacher, then its assistants.
        kd_weight: lambda, above 0 and up to 1; at 1 the labels are not looked at.
        temperature: T, positive.
        num_dropped: How many of teacher and assistants are left out of each step.

    Source: Son et al., "Densely Guided Knowledge Distillation using Multiple Teacher Assistants", ICCV 2021.
    """

    many_teachers = True

    def __init__(
        self,
        student: ModelSpec,
        teacher: list[ModelSpec],
        num_points: int,
        *,
        kd_weight: float = 1.0,
        temperature: float = 5.0,
        num_dropped: int = 1,
    ) -> None:
        super().__init__(student, teacher, num_points)
        check_share(kd_weight)
        check_temperature(temperature)
        if num_dropped < 0:
            raise ValueError(
                f"num_dropped is {num_dropped}: give the number of teachers left out of a step, 0 for none."
            )
        self.kd_weight = kd_weight
        self.temperature = temperature
        self.num_dropped = min(num_dropped, len(teacher) - 1)

    def forward(self, student: ModelOutputs, teacher: list[ModelOutputs], batch: Batch) -> dict[str, Tensor]:
        divergences = torch.stack([kd_loss(student.logits, one.logits, self.temperature) for one in teacher])
        if self.num_dropped:
            # On the device, where the choice need not be known to the host.
            ranks = torch.rand(len(teacher), device=divergences.device).argsort()
            divergences = divergences * (ranks >= self.num_dropped)
        parts = {"kd": self.kd_weight * divergences.sum()}
        if self.kd_weight < 1:
            parts["ce"] = (1 - self.kd_weight) * cross_entropy_loss(student.logits, batch["labels"])
        return parts
