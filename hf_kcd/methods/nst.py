"""NST: the student's channels have the selectivity of the teacher's."""

from torch import Tensor

from ..losses import nst_loss
from ..models import ModelOutputs
from .base import Batch, register_method
from .stages import StageMethod


@register_method("nst")
class NST(StageMethod):
    """CE + 50 x the squared maximum mean discrepancy of the channels' normalized maps, summed over the network stages.

    Polynomial kernel, as in the published tables. A stage takes B (HW)^2 or B (C_s + C_t)^2 numbers of memory, whichever is
    less; the reference takes B C_s C_t HW.
    """

    paper = "Huang and Wang, 2017"
    weight = 50.0
    compares_positions = True

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        return nst_loss(*self.stages(student, teacher))
