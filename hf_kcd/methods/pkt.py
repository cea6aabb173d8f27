"""PKT: the student has the teacher's probabilities of choosing one point next to another."""

from torch import Tensor

from ..losses import pkt_loss
from ..models import ModelOutputs
from .base import Batch, register_method
from .term import TermMethod


@register_method("pkt")
class PKT(TermMethod):
    """CE + 30000 x the divergence of the cosine probabilities of a batch, averaged over B^2; 0 for a single point.

    KL is off, as in the script behind the published tables. The KCD paper does not say whether its KC-PKT has it on.
    """

    paper = "Passalis and Tefas, ECCV 2018"
    reads = ("logits", "embedding")
    fewest_points = 2
    weight = 30000.0

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        return pkt_loss(student.embedding, teacher.embedding)
