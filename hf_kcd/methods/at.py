"""AT: the student attends to the same places as the teacher."""

from torch import Tensor

from ..losses import at_loss
from ..models import ModelOutputs
from .base import Batch, register_method
from .stages import StageMethod


@register_method("at")
class AT(StageMethod):
    """CE + 1000 x the mean squared difference of the normalized attention maps, summed over the network stages.

    Weight and mean are those of the published tables; the paper takes lengths of differences and adapts its weight.
    """

    paper = "Zagoruyko and Komodakis, ICLR 2017"
    weight = 1000.0
    compares_positions = True

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        return at_loss(*self.stages(student, teacher))
