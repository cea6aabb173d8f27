"""WCoRD: contrast by Wasserstein distances, in their dual form over the memory and in their primal form within a batch."""

from torch import Tensor
from torch.nn import functional as F

from ..losses import wcord_global_loss, wcord_local_loss
from ..models import ModelOutputs
from .base import Batch, check_weights, register_method
from .memory import ContrastiveMethod


@register_method("wcord")
class WCoRD(ContrastiveMethod):
    """FROM MEMORY, not checked against the paper: 1 CE + 0.8 global + 0.05 local contrast (`weight`, `local_weight`).

    Neither the paper nor its code was available, and both weights are guesses: do not take its results for the paper's.

    Global: E[g | negatives] - E[g | own point], of the student's embedding with the teacher's memory and of the teacher's
    with the student's, added. It is 0 for rows whose point is not in the memory yet, as in the whole first epoch. The critic
    is g = t log(1 + exp(m . e / t)), t the `score_temperature`: 1-Lipschitz in both unit vectors and between 0 and
    1 + t log 2; the projections are what it learns. Local: the Sinkhorn cost of moving the batch's student embeddings to its
    teacher embeddings.

    Two choices are ours. The critic: the paper makes one 1-Lipschitz by spectral normalization. The negatives' weight of 1,
    as in the duality: with the paper's weight M a bounded critic does best by being lowest for all pairs, the own one too.

    Args:
        local_weight: Weight of the local part.

    Source: Chen et al., "Wasserstein Contrastive Representation Distillation", CVPR 2021.
    """

    paper = "Chen et al., 2021"
    weight = 0.8

    def __init__(self, *args, local_weight: float = 0.05, **options) -> None:
        super().__init__(*args, **options)
        check_weights(local_weight=local_weight)
        self.local_weight = local_weight

    def forward(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        parts = self.ce_and_kd(student, teacher, batch)
        if not (self.weight or self.local_weight):
            return parts
        # An own entry of noise lacks what real embeddings have in common: the loss would turn all of them away from all others.
        remembered = (self.memory.last_epoch[batch["point_ids"]] >= 0)[:, None]
        student_embedding, teacher_embedding, *cosines = self.contrast(student, teacher, batch)
        if self.weight:
            losses = [wcord_global_loss(self._critic(cosine) * remembered, negative_weight=1.0) for cosine in cosines]
            parts["global"] = self.weight * sum(losses)
        if self.local_weight:
            local = wcord_local_loss(student_embedding, teacher_embedding, detach_teacher=False)
            parts["local"] = self.local_weight * local
        return parts

    def _critic(self, cosines: Tensor) -> Tensor:
        return self.score_temperature * F.softplus(cosines / self.score_temperature)
