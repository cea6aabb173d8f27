"""FitNet: a middle map of the student, through a regressor, matches the teacher's."""

from torch import Tensor

from ..losses import hint_loss
from ..models import ModelOutputs, ModelSpec
from .adapters import regressor
from .base import Batch, register_method
from .stages import FeatureMap, feature_maps
from .term import FirstPhaseMethod


@register_method("fitnet")
class FitNet(FirstPhaseMethod):
    """CE + 100 MSE(regressor(f_s), f_t) on one map of each network, without a first phase, as in the published tables.

    The paper first trains up to the hint alone, then with KD: `first_phase_epochs` with `kd_weight`. Outside its published
    pairs RepDistiller's regressor is a convolution as large as the difference in size; here a map is pooled.

    Args:
        hint_layer: Position of the map among the features of both networks; 2 is the second stage.
    """

    paper = "Romero et al., ICLR 2015"
    reads = ("logits", "features")
    weight = 100.0
    first_phase_epochs = 0

    def __init__(self, *args, hint_layer: int = 2, **options) -> None:
        super().__init__(*args, **options)
        self.hint_layer = hint_layer
        hints = _hint(self.student_spec, hint_layer), _hint(self.teacher_spec, hint_layer)
        self.regressor = regressor(*hints, activation=True)

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        return hint_loss(self.regressor(student.features[self.hint_layer]), teacher.features[self.hint_layer])


def _hint(spec: ModelSpec, hint_layer: int) -> FeatureMap:
    maps = feature_maps(spec)
    if not 0 <= hint_layer < len(maps):
        listed = ", ".join(map(str, maps))
        raise ValueError(f"hint_layer is {hint_layer}: choose one of {len(maps)} features of {spec.name}, {listed}.")
    return maps[hint_layer]
