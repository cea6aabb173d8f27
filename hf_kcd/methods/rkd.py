"""RKD: distances and angles between the points of a batch are the teacher's (Park et al., CVPR 2019)."""

from typing import Any

from torch import Tensor

from ..losses import rkd_loss
from ..models import ModelOutputs, ModelSpec
from .base import Batch, check_weights
from .registry import register_method
from .term import TermMethod


@register_method("rkd")
class RKD(TermMethod):
    """CE + 25 x the smooth L1 of distances + 50 x that of angles, between the embeddings of a batch.

    Under condensation the batch holds kept points alone. One point has nothing to be compared with: its term is 0.

    Args:
        student, teacher, num_points: As in `TermMethod`.
        weight: Weight of both relations.
        distance_weight: Weight of the distances among them.
        angle_weight: Weight of the angles among them; they take B^3 numbers of memory.
        **class_weights: What `TermMethod` takes besides.
    """

    student_reads = frozenset({"logits", "embedding"})
    teacher_reads = frozenset({"logits", "embedding"})

    def __init__(
        self,
        student: ModelSpec,
        teacher: ModelSpec,
        num_points: int,
        *,
        weight: float = 1.0,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        **class_weights: Any,
    ) -> None:
        super().__init__(student, teacher, num_points, weight=weight, **class_weights)
        check_weights(distance_weight=distance_weight, angle_weight=angle_weight)
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        return rkd_loss(student.embedding, teacher.embedding, self.distance_weight, self.angle_weight)
