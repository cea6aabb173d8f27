"""AB: the student's neurons are active where the teacher's are."""

from torch import Tensor, nn

from ..losses import ab_loss
from ..models import ModelOutputs
from .adapters import regressor
from .base import Batch, check_weights, register_method
from .stages import FeatureMap, StageMethod
from .term import FirstPhaseMethod


@register_method("ab")
class AB(FirstPhaseMethod, StageMethod):
    """30 epochs of the squared hinge on the signs of the teacher's pre-activations, then CE without it.

    A convolution and normalization adapts the student's pre-activations of another shape than the teacher's. In RepDistiller's
    first phase the student normalizes with running statistics that were never collected; here with those of the batch.

    Args:
        margin: Beyond this distance from 0, on the right side, the student's pre-activation costs nothing; not negative.
    """

    paper = "Heo et al., AAAI 2019"
    reads = ("logits", "preactivations")

    def __init__(self, *args, margin: float = 1.0, **options) -> None:
        super().__init__(*args, **options)
        check_weights(margin=margin)
        self.margin = margin
        self.connectors = nn.ModuleList(_connector(*pair) for pair in self.pairs)

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        ours, theirs = self.stages(student, teacher)
        connected = [connector(one) for connector, one in zip(self.connectors, ours, strict=True)]
        return ab_loss(connected, theirs, self.margin)


def _connector(student: FeatureMap, teacher: FeatureMap) -> nn.Module:
    same = (student.channels, student.size) == (teacher.channels, teacher.size)
    return nn.Identity() if same else regressor(student, teacher, activation=False)
