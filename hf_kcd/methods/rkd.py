"""RKD: the student has the teacher's distances and angles between the points of a batch."""

from torch import Tensor

from ..losses import rkd_loss
from ..models import ModelOutputs
from .base import Batch, check_weights, register_method
from .term import TermMethod


@register_method("rkd")
class RKD(TermMethod):
    """CE + 25 x the smooth L1 of distances + 50 x the smooth L1 of angles; 0 for one or two points.

    Args:
        weight: Weight of both relations together.
        distance_weight, angle_weight: Weights of the distances and of the angles, which take B^3 numbers of memory.
    """

    paper = "Park et al., CVPR 2019"
    reads = ("logits", "embedding")
    fewest_points = 3  # With two, the only distance is 1 and the only angles are 0.

    def __init__(self, *args, distance_weight: float = 25.0, angle_weight: float = 50.0, **options) -> None:
        super().__init__(*args, **options)
        check_weights(distance_weight=distance_weight, angle_weight=angle_weight)
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        return rkd_loss(student.embedding, teacher.embedding, self.distance_weight, self.angle_weight)
