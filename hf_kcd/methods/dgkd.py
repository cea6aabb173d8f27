"""DGKD: the student learns from the teacher and all assistants at once; each step drops some of them at random."""

import torch
from torch import Tensor

from ..errors import whole_number
from ..losses import kd_loss
from ..models import ModelOutputs
from .base import register_method
from .takd import TAKD


@register_method("dgkd")
class DGKD(TAKD):
    """(1 - `kd_weight`) CE + `kd_weight` x the sum over the teacher and its assistants of T^2 KL(teacher || student).

    Each step drops `num_dropped` of them at random, the teacher included, but never the last one. The choice comes from
    PyTorch's generator of the device, whose state is in every checkpoint. The chain runs as for TAKD. A divergence as the
    value of a point uses the teacher's logits. The reference code also averages the divergence over the C classes; its other
    values are the defaults.

    Args:
        teacher: The specs of the teacher, then of its assistants.
        num_dropped: Number of teachers and assistants that each step drops.

    Source: Son et al., "Densely Guided Knowledge Distillation using Multiple Teacher Assistants", ICCV 2021.
    """

    paper = "Son et al., 2021"
    many_teachers = True

    def __init__(self, *args, kd_weight: float = 1.0, temperature: float = 5.0, num_dropped: int = 1) -> None:
        super().__init__(*args, kd_weight=kd_weight, temperature=temperature)
        others = len(self.teacher_spec) - 1
        if whole_number("num_dropped", num_dropped, at_least=0) > max(1, others):
            raise ValueError(
                f"num_dropped is {num_dropped} of {others + 1} teachers: one must stay, so drop at most {others}."
            )
        self.num_dropped = min(num_dropped, others)

    def divergence(self, student: ModelOutputs, teacher: list[ModelOutputs]) -> Tensor:
        divergences = torch.stack([kd_loss(student.logits, one.logits, self.temperature) for one in teacher])
        if self.num_dropped:
            # On the device, so that the host does not wait for the choice.
            ranks = torch.rand(len(teacher), device=divergences.device).argsort()
            divergences = divergences * (ranks >= self.num_dropped)
        return divergences.sum()
