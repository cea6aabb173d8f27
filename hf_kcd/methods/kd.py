"""KD: the student matches the teacher's softened class probabilities."""

from torch import Tensor

from ..losses import cross_entropy_loss, kd_loss
from ..losses.common import check_temperature
from ..models import ModelOutputs
from .base import Batch, DistillationMethod, check_weights, register_method


@register_method("kd")
class KD(DistillationMethod):
    """`ce_weight` CE + `kd_weight` T^2 KL(teacher || student), as in the published CIFAR-100 tables.

    Args:
        ce_weight, kd_weight: Weights of the cross-entropy with the labels (gamma) and of the softened divergence (alpha).
        temperature: T, positive.
    """

    paper = "Hinton et al., 2015"

    def __init__(self, *args, ce_weight: float = 0.1, kd_weight: float = 0.9, temperature: float = 4.0) -> None:
        super().__init__(*args)
        check_weights(ce_weight=ce_weight, kd_weight=kd_weight)
        check_temperature(temperature)
        self.ce_weight = ce_weight
        self.kd_weight = kd_weight
        self.temperature = temperature

    @property
    def step_cost(self) -> float:
        return 1.0

    def forward(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        return {
            "ce": self.ce_weight * cross_entropy_loss(student.logits, batch["labels"]),
            "kd": self.kd_weight * kd_loss(student.logits, teacher.logits, self.temperature),
        }
