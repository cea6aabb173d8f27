"""NST: the student's channels are selective as the teacher's are (Huang and Wang, 2017)."""

from typing import Any

from torch import Tensor

from ..losses import nst_loss
from ..models import ModelOutputs, ModelSpec
from .base import Batch
from .pairing import pair_stages, require_positions, select_maps
from .registry import register_method
from .term import TermMethod


@register_method("nst")
class NST(TermMethod):
    """CE + 50 x the squared maximum mean discrepancy of the channels' normalised maps, summed over the stages.

    Polynomial kernel, as behind the published tables. A stage takes B (HW)^2 or B (C_s + C_t)^2 numbers of memory, the
    less of both; the reference takes B C_s C_t HW.

    Args:
        student, teacher, num_points: As in `TermMethod`.
        weight: Weight of the discrepancy.
        **class_weights: What `TermMethod` takes besides.
    """

    student_reads = frozenset({"logits", "features"})
    teacher_reads = frozenset({"logits", "features"})

    def __init__(
        self,
        student: ModelSpec,
        teacher: ModelSpec,
        num_points: int,
        *,
        weight: float = 50.0,
        **class_weights: Any,
    ) -> None:
        super().__init__(student, teacher, num_points, weight=weight, **class_weights)
        self.pairs = pair_stages(student, teacher)
        require_positions(student, teacher, self.pairs)

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        return nst_loss(*select_maps(self.pairs, student.features, teacher.features))
