"""FSP: how the channels of one stage go with those of the next is as in the teacher (Yim et al., CVPR 2017)."""

from typing import Any

from torch import Tensor

from ..losses import fsp_loss
from ..models import ModelOutputs, ModelSpec
from .base import Batch
from .first_phase import FirstPhaseMethod
from .pairing import feature_maps
from .registry import register_method


@register_method("fsp")
class FSP(FirstPhaseMethod):
    """30 epochs of the mean squared difference of the flow matrices, stem included, then CE without it.

    Student and teacher must have the same channels, feature by feature. RepDistiller's script sets a weight of 50, which
    there multiplies nothing: its first phase is unweighted. There too the student normalises, in that phase, with running
    statistics that nobody has gathered; here with those of its batches.

    Args:
        student, teacher, num_points: As in `TermMethod`.
        weight: Weight of the flow.
        **options: `initialisation_epochs`, as in `FirstPhaseMethod`, and what `TermMethod` takes besides.

    Raises:
        ValueError: When the features differ in number or channels, or there are not two of them.
    """

    student_reads = frozenset({"logits", "features"})
    teacher_reads = frozenset({"logits", "features"})

    def __init__(
        self,
        student: ModelSpec,
        teacher: ModelSpec,
        num_points: int,
        *,
        weight: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, num_points, weight=weight, **options)
        if student.feature_channels != teacher.feature_channels or len(student.feature_channels) < 2:
            listed = " and ".join(
                f"{one.name} has {', '.join(map(str, feature_maps(one)))}" for one in (student, teacher)
            )
            raise ValueError(
                f"FSP compares flows between features of the same channels, at least two: {listed}. Choose such layers with "
                "student_layers and teacher_layers, or another pair of networks or method."
            )

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        return fsp_loss(student.features, teacher.features)
