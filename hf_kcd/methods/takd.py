"""TAKD: the student learns from an assistant of medium size, which has learned from the teacher."""

from torch import Tensor

from ..losses import cross_entropy_loss, kd_loss
from ..losses.common import check_temperature
from ..models import ModelOutputs
from .base import Batch, DistillationMethod, register_method


@register_method("takd")
class TAKD(DistillationMethod):
    """(1 - `kd_weight`) CE + `kd_weight` T^2 KL(teacher || student): one link of the chain; the teacher is the link before.

    `hf-kcd distill --teacher T --assistants A1 A2 --student S` runs the whole chain; in Python each link is a
    `DistillationTrainer`, whose student is the next link's teacher. The reference code also averages the divergence over the
    C classes: its weights, searched per pair in 0.05 to 1 with T in 1 to 20, do not carry over. The defaults are KD's.

    Args:
        kd_weight: lambda, above 0 and up to 1; at 1 the labels are not used.
        temperature: T, positive.

    Source: Mirzadeh et al., "Improved Knowledge Distillation via Teacher Assistant", AAAI 2020, Eq. 3.
    """

    paper = "Mirzadeh et al., 2020"

    def __init__(self, *args, kd_weight: float = 0.9, temperature: float = 4.0) -> None:
        super().__init__(*args)
        if not 0 < kd_weight <= 1:
            raise ValueError(f"kd_weight is {kd_weight}: give a number above 0 and up to 1; CE gets the rest of 1.")
        check_temperature(temperature)
        self.kd_weight = kd_weight
        self.temperature = temperature

    def forward(
        self, student: ModelOutputs, teacher: ModelOutputs | list[ModelOutputs], batch: Batch
    ) -> dict[str, Tensor]:
        parts = {"kd": self.kd_weight * self.divergence(student, teacher)}
        if self.kd_weight < 1:
            parts["ce"] = (1 - self.kd_weight) * cross_entropy_loss(student.logits, batch["labels"])
        return parts

    def divergence(self, student: ModelOutputs, teacher: ModelOutputs | list[ModelOutputs]) -> Tensor:
        """Compute T^2 KL(teacher || student)."""
        return kd_loss(student.logits, teacher.logits, self.temperature)
