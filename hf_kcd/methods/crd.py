"""CRD: the student's embedding of a point is told from other points' by the teacher's, and the reverse (Tian et al., 2020)."""

from typing import Any

import torch
from torch import Tensor

from ..losses import crd_loss
from ..models import ModelOutputs, ModelSpec
from .base import Batch
from .memory import ContrastiveMethod, gather_rows
from .registry import register_method


@register_method("crd")
class CRD(ContrastiveMethod):
    """`ce_weight` CE + `kd_weight` T^2 KL + `weight` CRD, by default 1 CE + 0.8 CRD; CRD+KD is `kd_weight=1`.

    Of either side a score is P = exp(m . e / `score_temperature`) / Z, with e the embedding and m an entry of the other
    network's memory; Z = N x the mean score of the first batch (of all processes), fixed from then on. N cancels between
    P and K / N, so that condensation needs no other N. `ContrastiveMethod` says how points are embedded, remembered and
    drawn. A point's value is taken from the student's logits.

    Source: Tian et al., "Contrastive Representation Distillation", ICLR 2020, and the authors' code ("exact" mode: the
    positive is the point itself, negatives are of other classes). What differs: the rows of a step share one random order
    of candidates; K is at most what the largest class leaves of all points, where the authors' code draws with
    replacement; dropped points serve last.

    Args:
        student: What the student hands out.
        teacher: What the teacher hands out.
        num_points: Number of points of the whole training set.
        weight: Weight of the contrastive loss.
        **options: As in `ContrastiveMethod` and `TermMethod`.
    """

    def __init__(
        self, student: ModelSpec, teacher: ModelSpec, num_points: int, *, weight: float = 0.8, **options: Any
    ) -> None:
        super().__init__(student, teacher, num_points, weight=weight, **options)
        # Z of the student's scores and of the teacher's; 0 before the first batch.
        self.register_buffer("normalisers", torch.zeros(2))

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        *_, student_cosines, teacher_cosines = self.contrast(student, teacher, batch)
        student_scores = student_cosines.div(self.score_temperature).exp()
        teacher_scores = teacher_cosines.div(self.score_temperature).exp()
        student_normaliser, teacher_normaliser = self._fix_normalisers(student_scores, teacher_scores)
        return crd_loss(student_scores / student_normaliser, teacher_scores / teacher_normaliser, self.num_points)

    @torch.no_grad()
    def _fix_normalisers(self, student_scores: Tensor, teacher_scores: Tensor) -> Tensor:
        means = gather_rows(torch.stack([student_scores.mean(), teacher_scores.mean()])[None]).mean(0)
        normalisers = torch.where(self.normalisers > 0, self.normalisers, self.num_points * means)
        self.normalisers.copy_(normalisers)
        return normalisers
