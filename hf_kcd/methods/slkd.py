"""SLKD: the student also learns from untrained copies of the teacher while these learn from the teacher."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..errors import whole_number
from ..losses import cross_entropy_loss, kd_loss, slkd_loss
from ..models import ModelOutputs
from ..models.catalog import count_macs
from .base import Batch, DistillationMethod, FirstPhase, check_weights, register_method
from .networks import untrained_network


@register_method("slkd")
class SLKD(DistillationMethod):
    """`teacher_weight` L(T, S) + `self_learning_weight` L(SL, S), each L = alpha CE + (1 - alpha) T^2 KL (Eq. 7).

    SL is the mean of the SL-teachers' softened probabilities, weighted by `fusion` (Eq. 6). Each SL-teacher is an untrained
    network of the teacher's architecture that minimizes its own L(T, SL) in the same step (Eq. 4, 5), under the student's
    optimizer; no gradient reaches another network. One forward pass of an SL-teacher, on the student's images and with the
    statistics of the batch, serves its learning and its teaching. A weight of 0 is the ablation of Table 4: the teacher alone
    (then there are no SL-teachers), or the SL-teachers alone. There is no reference code, and the paper does not give alpha,
    rho and T^2: these are the field's.

    Args:
        num_sl_teachers: Number of SL-teachers, at least 1; 2 in the paper.
        alpha: Weight of the cross-entropy inside each L.
        temperature: tau, positive.
        fusion: rho, the first one's weight of two, or the weights of all; None for equal ones.
        teacher_weight, self_learning_weight: lambda and eta.
        first_phase_epochs: Epochs in which the SL-teachers learn first, without the student, whom they then teach frozen, in
            evaluation mode (SLKD*); their learning rate becomes a tenth after 5/8, 6/8 and 7/8. 0 to learn together.

    Source: Liu et al., "Improving Knowledge Distillation via Transferring Learning Ability", 2023.
    """

    paper = "Liu et al., 2023"
    copies_teacher = True

    def __init__(
        self,
        *args,
        num_sl_teachers: int = 2,
        alpha: float = 0.1,
        temperature: float = 4.0,
        fusion: float | Sequence[float] | None = None,
        teacher_weight: float = 1.0,
        self_learning_weight: float = 3.0,
        first_phase_epochs: int = 0,
    ) -> None:
        super().__init__(*args)
        check_weights(alpha=alpha, teacher_weight=teacher_weight, self_learning_weight=self_learning_weight)
        if not teacher_weight + self_learning_weight or alpha > 1:
            given = f"teacher_weight is {teacher_weight}, self_learning_weight {self_learning_weight}, alpha {alpha}"
            raise ValueError(f"{given}: give at least one of the two a weight above 0, and an alpha up to 1.")
        num_sl_teachers = whole_number("num_sl_teachers", num_sl_teachers)
        if first_phase_epochs:
            decays = tuple(first_phase_epochs * share for share in (5 / 8, 6 / 8, 7 / 8))
            self.first_phase = FirstPhase(first_phase_epochs, trains_student=False, decay_epochs=decays)
            if not self_learning_weight:
                raise ValueError("self_learning_weight is 0: no SL-teachers train first. Set first_phase_epochs to 0.")
        self.alpha = alpha
        self.temperature = temperature
        self.fusion = [1 / num_sl_teachers] * num_sl_teachers if fusion is None else fusion
        self.teacher_weight = teacher_weight
        self.self_learning_weight = self_learning_weight
        # The loss checks the other options; here, so that it refuses them before the first step.
        logits, label = torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64)
        slkd_loss(logits, logits, [logits] * num_sl_teachers, label, alpha, temperature, self.fusion)
        # The SL-teachers see the student's images, whatever the teacher's are.
        student = self.student_spec
        self.sl_spec = replace(self.teacher_spec, input_size=student.input_size, mean=student.mean, std=student.std)
        count = num_sl_teachers if self_learning_weight else 0
        self.sl_teachers = nn.ModuleList(untrained_network(self.sl_spec) for _ in range(count))

    @property
    def step_cost(self) -> float:
        """1 + 2 n F_t / (F_t + 2 F_s), a backward pass counting as a forward one, as in UNIX-KD; frozen SL-teachers have none."""
        if not self.sl_teachers:
            return 1.0
        passes = len(self.sl_teachers) * (1 if self.first_phase else 2)
        teacher = count_macs(lambda: untrained_network(self.sl_spec))
        try:
            student = count_macs(lambda: untrained_network(self.student_spec))
        except (RuntimeError, ValueError):
            student = 0  # It cannot be made by its name: an upper bound.
        return 1 + passes * teacher / (teacher + 2 * student)

    def forward(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        images, labels = batch["pixel_values"], batch["labels"]
        parts = {}
        if self.teacher_weight:
            parts["teacher"] = self.teacher_weight * self._learning_loss(student.logits, teacher.logits, labels)
        if not self.sl_teachers:
            return parts
        frozen = self.first_phase is not None
        if frozen and self.sl_teachers.training:
            self.sl_teachers.eval()
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            logits = [network(images) for network in self.sl_teachers]
        if not frozen:
            parts |= self._sl_teacher_parts(logits, teacher, labels)
        options = (self.alpha, self.temperature, self.fusion, 0.0, self.self_learning_weight)
        parts["sl_teachers"] = slkd_loss(student.logits, teacher.logits, logits, labels, *options)
        return parts

    def first_phase_losses(self, student: None, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        logits = [network(batch["pixel_values"]) for network in self.sl_teachers]
        return self._sl_teacher_parts(logits, teacher, batch["labels"])

    def networks(self) -> dict[str, nn.Module]:
        return {f"sl_teacher_{number}": network for number, network in enumerate(self.sl_teachers, start=1)}

    def _sl_teacher_parts(self, logits: list[Tensor], teacher: ModelOutputs, labels: Tensor) -> dict[str, Tensor]:
        losses = [self._learning_loss(one, teacher.logits, labels) for one in logits]
        return dict(zip(self.networks(), losses, strict=True))

    def _learning_loss(self, logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        """Compute L of Eq. 1 for a network that learns from the teacher."""
        divergence = kd_loss(logits, teacher_logits, self.temperature)
        return self.alpha * cross_entropy_loss(logits, labels) + (1 - self.alpha) * divergence
