"""TAKD: the student learns from an assistant of middle size, which has learnt from the teacher (Mirzadeh et al., 2020)."""

from torch import Tensor

from ..losses import cross_entropy_loss, kd_loss
from ..losses.common import check_temperature
from ..models import ModelOutputs, ModelSpec
from .base import Batch, DistillationMethod
from .registry import register_method


@register_method("takd")
class TAKD(DistillationMethod):
    """(1 - `kd_weight`) CE + `kd_weight` T^2 KL(teacher || student): one link of the chain, the teacher being the one before.

    The whole chain is `hf-kcd distill --teacher T --assistants A1 A2 --student S`; in Python each link is one
    `DistillationTrainer`, whose student is the next one's teacher. A point's value is taken from the student's logits.

    The reference code averages the divergence over the classes too, so that its term is C times smaller (100 on CIFAR-100):
    its weights, searched for each pair in 0.05 to 1 with T in 1 to 20, mean something else here. The defaults are those of KD.

    Args:
        student, teacher, num_points: As in `DistillationMethod`.
        kd_weight: lambda, above 0 and up to 1; at 1 the labels are not looked at.
        temperature: T, positive.

    Source: Mirzadeh et al., "Improved Knowledge Distillation via Teacher Assistant", AAAI 2020, Eq. 3.
    """

    def __init__(
        self,
        student: ModelSpec,
        teacher: ModelSpec,
        num_points: int,
        *,
        kd_weight: float = 0.9,
        temperature: float = 4.0,
    ) -> None:
        super().__init__(student, teacher, num_points)
        check_share(kd_weight)
        check_temperature(temperature)
        self.kd_weight = kd_weight
        self.temperature = temperature

    def forward(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        parts = {"kd": self.kd_weight * kd_loss(student.logits, teacher.logits, self.temperature)}
        if self.kd_weight < 1:
            parts["ce"] = (1 - self.kd_weight) * cross_entropy_loss(student.logits, batch["labels"])
        return parts


def check_share(kd_weight: float) -> None:
    """Refuse a weight of which the cross-entropy cannot have the rest."""
    if not 0 < kd_weight <= 1:
        raise ValueError(f"kd_weight is {kd_weight}: give a number above 0 and up to 1; CE has what is left of 1.")
