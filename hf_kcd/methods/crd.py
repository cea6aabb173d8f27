"""CRD: contrasts the student's embedding of a point with the teacher's embeddings of the same point and of others."""

import torch
from torch import Tensor

from ..losses import crd_loss
from ..models import ModelOutputs
from .base import Batch, register_method
from .memory import ContrastiveMethod, gather_rows


@register_method("crd")
class CRD(ContrastiveMethod):
    """`ce_weight` CE + `kd_weight` T^2 KL + `weight` CRD, by default 1 CE + 0.8 CRD; CRD+KD is `kd_weight=1`.

    A score is P = exp(m . e / `score_temperature`) / Z, with e an embedding of one network and m an entry of the other
    network's memory. Z = N x the mean score of the first batch (of all processes), then fixed. N cancels between P and K / N,
    so that condensation needs no other N.

    Source: Tian et al., "Contrastive Representation Distillation", ICLR 2020, and the authors' code ("exact" mode). What
    differs: the rows of a step share one random order of candidates; K is at most what the largest class leaves of all points
    (the authors' code draws with replacement); dropped points are used last.
    """

    paper = "Tian et al., 2020"
    weight = 0.8

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        # Z of the student's scores and of the teacher's; 0 before the first batch. Checkpoints have this spelling.
        self.register_buffer("normalisers", torch.zeros(2))

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        *_, student_cosines, teacher_cosines = self.contrast(student, teacher, batch)
        scores = [cosines.div(self.score_temperature).exp() for cosines in (student_cosines, teacher_cosines)]
        student_scores, teacher_scores = map(torch.div, scores, self._fix_normalizers(scores))
        return crd_loss(student_scores, teacher_scores, self.num_points)

    @torch.no_grad()
    def _fix_normalizers(self, scores: list[Tensor]) -> Tensor:
        means = gather_rows(torch.stack([one.mean() for one in scores])[None]).mean(0)
        normalizers = torch.where(self.normalisers > 0, self.normalisers, self.num_points * means)
        self.normalisers.copy_(normalizers)
        return normalizers
