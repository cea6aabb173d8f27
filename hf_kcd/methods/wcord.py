"""WCoRD: contrast by Wasserstein distances, over the memory in its dual form and within a batch in its primal form (Chen et al., 2021)."""

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ..losses import wcord_global_loss, wcord_local_loss
from ..models import ModelOutputs, ModelSpec
from .base import Batch, check_weights
from .memory import ContrastiveMethod
from .registry import register_method


@register_method("wcord")
class WCoRD(ContrastiveMethod):
    """`ce_weight` CE + `kd_weight` T^2 KL + `weight` global + `local_weight` local, by default 1 CE + 0.8 + 0.05.

    Global: E[g | negatives] - E[g | own point], of the student's embedding with the teacher's memory and of the teacher's
    with the student's, added; 0 for rows whose point is not remembered yet, all those of the first epoch. The critic is g = t log(1 + exp(m . e / t)), t the `score_temperature`: 1-Lipschitz in either
    unit vector and between 0 and 1 + t log 2, and the projections are what it learns. Local: the Sinkhorn cost of moving
    the batch's student embeddings to its teacher embeddings. `ContrastiveMethod` says how points are embedded, remembered
    and drawn. A point's value is taken from the student's logits.

    Source: Chen et al., "Wasserstein Contrastive Representation Distillation", CVPR 2021. Neither the paper nor a program
    of its authors was at hand: the form is from memory, and so, with low confidence, are both weights. Ours are the critic,
    in place of one made 1-Lipschitz by spectral normalisation, and the negatives' weight of 1, as in the duality; with the
    paper's weight M a bounded critic does best by being lowest for all pairs, the own one included.

    Args:
        student: What the student hands out.
        teacher: What the teacher hands out.
        num_points: Number of points of the whole training set.
        weight: Weight of the global part.
        local_weight: Weight of the local part.
        **options: As in `ContrastiveMethod` and `TermMethod`.
    """

    def __init__(
        self,
        student: ModelSpec,
        teacher: ModelSpec,
        num_points: int,
        *,
        weight: float = 0.8,
        local_weight: float = 0.05,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, num_points, weight=weight, **options)
        check_weights(local_weight=local_weight)
        self.local_weight = local_weight

    def forward(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        parts = self.class_parts(student, teacher, batch)
        if not (self.weight or self.local_weight):
            return parts
        # An own entry that is noise would be told from renewed ones by what embeddings have in common: all would turn away
        # from all others, to where the critic is flat.
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
