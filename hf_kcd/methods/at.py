"""AT: the student looks where the teacher looks (Zagoruyko and Komodakis, ICLR 2017)."""

from typing import Any

from torch import Tensor

from ..losses import at_loss
from ..models import ModelOutputs, ModelSpec
from .base import Batch
from .pairing import pair_stages, require_positions, select_maps
from .registry import register_method
from .term import TermMethod


@register_method("at")
class AT(TermMethod):
    """CE + 1000 x the mean squared difference of the normalised attention maps, summed over the stages.

    Weight and mean are those behind the published tables; the paper takes lengths of differences and adapts its weight.

    Args:
        student, teacher, num_points: As in `TermMethod`.
        weight: Weight of the attention.
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
        weight: float = 1000.0,
        **class_weights: Any,
    ) -> None:
        super().__init__(student, teacher, num_points, weight=weight, **class_weights)
        self.pairs = pair_stages(student, teacher)
        require_positions(student, teacher, self.pairs)

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        return at_loss(*select_maps(self.pairs, student.features, teacher.features))
