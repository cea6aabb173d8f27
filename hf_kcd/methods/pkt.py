"""PKT: the probability of choosing one point beside another is the teacher's (Passalis and Tefas, ECCV 2018)."""

from typing import Any

from torch import Tensor

from ..losses import pkt_loss
from ..models import ModelOutputs, ModelSpec
from .base import Batch
from .registry import register_method
from .term import TermMethod


@register_method("pkt")
class PKT(TermMethod):
    """CE + 30000 x the divergence of the cosine probabilities of a batch's embeddings, averaged over B^2.

    KL is off, as in the script behind the published tables; the KCD paper does not say whether its KC-PKT has it on.
    Under condensation the batch holds kept points alone. One point has nothing to be compared with: its term is 0.

    Args:
        student, teacher, num_points: As in `TermMethod`.
        weight: Weight of the divergence, which belongs to a mean over B^2.
        **class_weights: What `TermMethod` takes besides.
    """

    student_reads = frozenset({"logits", "embedding"})
    teacher_reads = frozenset({"logits", "embedding"})

    def __init__(
        self,
        student: ModelSpec,
        teacher: ModelSpec,
        num_points: int,
        *,
        weight: float = 30000.0,
        **class_weights: Any,
    ) -> None:
        super().__init__(student, teacher, num_points, weight=weight, **class_weights)

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        return pkt_loss(student.embedding, teacher.embedding)
