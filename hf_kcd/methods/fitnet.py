"""FitNet: a middle map of the student, through a regressor, matches the teacher's (Romero et al., ICLR 2015)."""

from typing import Any

from torch import Tensor

from ..losses import hint_loss
from ..models import ModelOutputs, ModelSpec
from .adapters import regressor
from .base import Batch
from .first_phase import FirstPhaseMethod
from .pairing import FeatureMap, feature_maps
from .registry import register_method


@register_method("fitnet")
class FitNet(FirstPhaseMethod):
    """CE + 100 MSE(regressor(f_s), f_t) on one map of either, in one stage, as behind the published tables.

    The paper trains up to the hint alone first, then with KD: `initialisation_epochs` with `kd_weight`. Outside its
    published pairs RepDistiller's regressor is a convolution as large as the difference in size; here a map is pooled.

    Args:
        student, teacher, num_points: As in `TermMethod`.
        weight: Weight of the hint.
        hint_layer: Position of the map among the features of either network; 2 is the second stage.
        initialisation_epochs: Epochs of the hint alone, after which it is left out; 0 keeps it throughout.
        **class_weights: What `TermMethod` takes besides.

    Raises:
        ValueError: When a network has no such feature.
    """

    student_reads = frozenset({"logits", "features"})
    teacher_reads = frozenset({"logits", "features"})

    def __init__(
        self,
        student: ModelSpec,
        teacher: ModelSpec,
        num_points: int,
        *,
        weight: float = 100.0,
        hint_layer: int = 2,
        initialisation_epochs: int = 0,
        **class_weights: Any,
    ) -> None:
        super().__init__(
            student, teacher, num_points, weight=weight, initialisation_epochs=initialisation_epochs, **class_weights
        )
        self.hint_layer = hint_layer
        self.regressor = regressor(_hint(student, hint_layer), _hint(teacher, hint_layer), activation=True)

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        return hint_loss(self.regressor(student.features[self.hint_layer]), teacher.features[self.hint_layer])


def _hint(spec: ModelSpec, hint_layer: int) -> FeatureMap:
    maps = feature_maps(spec)
    if not 0 <= hint_layer < len(maps):
        raise ValueError(
            f"hint_layer is {hint_layer}, but the features of {spec.name} are {', '.join(map(str, maps))}: give a position "
            f"from 0 to {len(maps) - 1}."
        )
    return maps[hint_layer]
