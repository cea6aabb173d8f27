"""AB: the student's neurons are on where the teacher's are (Heo et al., AAAI 2019)."""

from typing import Any

from torch import Tensor, nn

from ..losses import ab_loss
from ..models import ModelOutputs, ModelSpec
from .adapters import regressor
from .base import Batch, check_weights
from .first_phase import FirstPhaseMethod
from .pairing import pair_stages, select_maps
from .registry import register_method


@register_method("ab")
class AB(FirstPhaseMethod):
    """30 epochs of the squared hinge on the signs of the teacher's pre-activations, then CE without it.

    The student's pre-activations go through a convolution and normalisation where their shape is not the teacher's. In
    RepDistiller's first phase the student normalises with running statistics that nobody has gathered; here with those of
    its batches.

    Args:
        student, teacher, num_points: As in `TermMethod`.
        weight: Weight of the hinge.
        margin: How far beyond 0 the student's pre-activation costs nothing, not negative.
        **options: `initialisation_epochs`, as in `FirstPhaseMethod`, and what `TermMethod` takes besides.
    """

    student_reads = frozenset({"logits", "preactivations"})
    teacher_reads = frozenset({"logits", "preactivations"})

    def __init__(
        self,
        student: ModelSpec,
        teacher: ModelSpec,
        num_points: int,
        *,
        weight: float = 1.0,
        margin: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, num_points, weight=weight, **options)
        check_weights(margin=margin)
        self.margin = margin
        self.pairs = pair_stages(student, teacher, "preactivations", "preactivations")
        self.connectors = nn.ModuleList(
            nn.Identity()
            if (ours.channels, ours.size) == (theirs.channels, theirs.size)
            else regressor(ours, theirs, activation=False)
            for ours, theirs in self.pairs
        )

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        ours, theirs = select_maps(self.pairs, student.preactivations, teacher.preactivations)
        connected = [connector(one) for connector, one in zip(self.connectors, ours, strict=True)]
        return ab_loss(connected, theirs, self.margin)
