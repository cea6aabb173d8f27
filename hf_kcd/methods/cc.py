"""CC: neighbors in a batch differ from the teacher in different entries."""

from torch import Tensor, nn

from ..losses import cc_loss
from ..models import ModelOutputs
from .base import Batch, register_method
from .term import TermMethod


@register_method("cc")
class CC(TermMethod):
    """CE + 0.02 x the mean over consecutive points of sum |d_i d_(i+1)|, d = embed(e_s) - embed(e_t); 0 for a single point.

    This is RepDistiller's form, used for the published tables: both embeds are linear layers and both train, so that the
    teacher's side has a gradient. The paper correlates points through a kernel.

    Args:
        common_dim: Width of the space that both are embedded in.
    """

    paper = "Peng et al., ICCV 2019"
    reads = ("logits", "embedding")
    fewest_points = 2
    weight = 0.02

    def __init__(self, *args, common_dim: int = 128, **options) -> None:
        super().__init__(*args, **options)
        self.student_embed = nn.Linear(self.student_spec.embedding_dim, common_dim)
        self.teacher_embed = nn.Linear(self.teacher_spec.embedding_dim, common_dim)

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        ours, theirs = self.student_embed(student.embedding), self.teacher_embed(teacher.embedding)
        return cc_loss(ours, theirs, detach_teacher=False)
