"""FSP: the student has the teacher's flow between the channels of consecutive network stages."""

from torch import Tensor

from ..losses import fsp_loss
from ..models import ModelOutputs, ModelSpec
from .base import Batch, register_method
from .stages import feature_maps
from .term import FirstPhaseMethod


@register_method("fsp")
class FSP(FirstPhaseMethod):
    """30 epochs of the mean squared difference of the flow matrices, stem included, then CE without it.

    RepDistiller's script sets a weight of 50 that is never applied: its first phase is unweighted. There the student also
    normalizes, in that phase, with running statistics that were never collected; here with those of the batch.
    """

    paper = "Yim et al., CVPR 2017"
    reads = ("logits", "features")

    def __init__(self, student: ModelSpec, teacher: ModelSpec, num_points: int, **options) -> None:
        super().__init__(student, teacher, num_points, **options)
        if student.feature_channels != teacher.feature_channels or len(student.feature_channels) < 2:
            ours, theirs = (f"{one.name} has {', '.join(map(str, feature_maps(one)))}" for one in (student, teacher))
            raise ValueError(
                f"FSP compares flows between features of the same channels, at least two: {ours} and {theirs}. "
                "Choose such layers with student_layers and teacher_layers, or another pair of networks or method."
            )

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        return fsp_loss(student.features, teacher.features)
