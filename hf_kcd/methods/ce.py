"""CE: the student alone. This is how teachers are trained, and the baseline that distillation must beat."""

from torch import Tensor

from ..losses import cross_entropy_loss
from ..models import ModelOutputs
from .base import Batch, DistillationMethod, register_method


@register_method("ce")
class CE(DistillationMethod):
    """Cross-entropy with the labels, without a teacher."""

    teacher_reads = frozenset()

    def forward(self, student: ModelOutputs, teacher: None, batch: Batch) -> dict[str, Tensor]:
        return {"ce": cross_entropy_loss(student.logits, batch["labels"])}
