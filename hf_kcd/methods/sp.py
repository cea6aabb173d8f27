"""SP: points of a batch that are alike to the teacher are alike to the student (Tung and Mori, ICCV 2019)."""

from typing import Any

from torch import Tensor

from ..losses import sp_loss
from ..models import ModelOutputs, ModelSpec
from .base import Batch
from .registry import register_method
from .term import TermMethod


@register_method("sp")
class SP(TermMethod):
    """CE + 3000 ||G_t - G_s||_F^2 / B^2 on the deepest map of either network, whatever its shape.

    Under condensation the batch holds kept points alone. One point has nothing to be compared with: its term is 0.

    Args:
        student, teacher, num_points: As in `TermMethod`.
        weight: Weight of the similarities.
        **class_weights: What `TermMethod` takes besides.
    """

    student_reads = frozenset({"logits", "features"})
    teacher_reads = frozenset({"logits", "features"})

    def __init__(
        self,
        student: ModelSpec,
        teacher: ModelSpec,
        num_points: int,
        *,
        weight: float = 3000.0,
        **class_weights: Any,
    ) -> None:
        super().__init__(student, teacher, num_points, weight=weight, **class_weights)

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        return sp_loss(student.features[-1], teacher.features[-1])
