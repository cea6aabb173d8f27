"""SP: points that are similar to the teacher are similar to the student."""

from torch import Tensor

from ..losses import sp_loss
from ..models import ModelOutputs
from .base import Batch, register_method
from .term import TermMethod


@register_method("sp")
class SP(TermMethod):
    """CE + 3000 ||G_t - G_s||_F^2 / B^2 on the deepest maps, whatever their shapes; 0 for a single point."""

    paper = "Tung and Mori, ICCV 2019"
    reads = ("logits", "features")
    fewest_points = 2
    weight = 3000.0

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        return sp_loss(student.features[-1], teacher.features[-1])
