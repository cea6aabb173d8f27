"""UNIX-KD: only the images with the most uncertain predictions are distilled, mixed with others."""

import torch
from torch import Tensor, nn

from ..losses import kd_loss, unix_mask
from ..losses.common import check_shares, check_temperature, soften
from ..models import ModelOutputs, ModelSpec
from ..models.catalog import count_macs
from .base import IMAGES, Batch, DistillationMethod, register_method
from .networks import untrained_network


@register_method("unix")
class UNIX(DistillationMethod):
    """T^2 KL alone, on the k = 48 of n = 64 images with the highest entropy, mixed by lambda sigmoid(w (r / n - m)).

    A scoring pass first runs the student on the drawn images, without gradient, and ranks them by the entropy of its
    predictions. Each is mixed with a random one of the batch, more strongly the more confident the student is (`unix_mask`;
    every batch draws lambda from Beta(1, 1)), and the first k go through teacher and student. The scoring pass runs in
    training mode, as in the authors' code: the running statistics move twice in a step, once on unmixed images.

    The value of a point comes from the student's logits in the scoring pass: otherwise confident points would never be valued,
    and unknown points rank first. One thing differs from the authors' code: a smaller batch, the last of an epoch, keeps and
    mixes the same shares; there it keeps up to 48 images, mixed as the first of 64.

    Args:
        temperature: T, positive.
        keep_ratio: k / n, the share of the drawn images that is distilled, above 0 and up to 1.
        base_ratio: b / n, the share that stays nearly unmixed, 0 to 1.
        steepness: w, not negative: how sharp the border between the two is.
        cost_ratio: F_t / F_s, the teacher's cost of an image relative to the student's; None to count it.

    Source: Xu et al., "Computation-Efficient Knowledge Distillation via Uncertainty-Aware Mixup", 2020.
    """

    paper = "Xu et al., 2020"
    prepares_teacher_images = True

    def __init__(
        self,
        *args,
        temperature: float = 4.0,
        keep_ratio: float = 0.75,
        base_ratio: float = 0.5,
        steepness: float = 10.0,
        cost_ratio: float | None = None,
    ) -> None:
        super().__init__(*args)
        check_temperature(temperature)
        check_shares(base_ratio=base_ratio)
        if not 0 < keep_ratio <= 1:
            raise ValueError(f"keep_ratio is {keep_ratio}: give a share above 0 and up to 1; the authors keep 0.75.")
        if not steepness >= 0:
            raise ValueError(f"steepness is {steepness}: give a number that is not negative; the authors use 10.")
        if cost_ratio is not None and not cost_ratio > 0:
            raise ValueError(f"cost_ratio is {cost_ratio}: give a positive number, or leave it out.")
        self.temperature = temperature
        self.keep_ratio = keep_ratio
        self.base_ratio = base_ratio
        self.steepness = steepness
        self.cost_ratio = _cost_ratio(self.student_spec, self.teacher_spec) if cost_ratio is None else cost_ratio

    @property
    def step_cost(self) -> float:
        """C = k / n + 1 / (F_t / F_s + 2): a backward pass counts as a forward one, the scoring pass as one of n images."""
        return self.keep_ratio + 1 / (self.cost_ratio + 2)

    def num_rows(self, num_points: int) -> int:
        return max(1, round(self.keep_ratio * num_points))

    def prepare_batch(self, batch: Batch, student: nn.Module) -> Batch:
        images = batch["pixel_values"]
        with torch.no_grad():
            scores = student(images)
            log_probabilities = soften(scores, 1.0)
        # Older versions of torch would give the step the weights that autocast cached in this pass, which have no gradient.
        torch.clear_autocast_cache()
        entropy = -(log_probabilities.exp() * log_probabilities).sum(1)
        num_drawn = len(images)
        num_kept = self.num_rows(num_drawn)
        kept = entropy.argsort(descending=True, stable=True)[:num_kept]
        others = torch.randperm(num_drawn, device=images.device)[:num_kept]
        # Beta(1, 1) is uniform. It is drawn on the CPU, so that no step waits for the accelerator.
        strength = float(torch.rand(()))
        mask = unix_mask(num_drawn, round(self.base_ratio * num_drawn), self.steepness, strength)[:num_kept]
        mask = mask.to(images.device, images.dtype, non_blocking=True)[:, None, None, None]
        prepared = {name: values[kept] for name, values in batch.items()}
        for name in IMAGES & batch.keys():
            prepared[name] = (1 - mask) * prepared[name] + mask * batch[name][others]
        return prepared | {"drawn_logits": scores, "drawn_labels": batch["labels"], "drawn_ids": batch["point_ids"]}

    def observation(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        drawn = {"student_logits": "drawn_logits", "labels": "drawn_labels", "point_ids": "drawn_ids"}
        return {name: batch[key] for name, key in drawn.items()}

    def forward(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        return {"kd": kd_loss(student.logits, teacher.logits, self.temperature)}


def _cost_ratio(student: ModelSpec, teacher: ModelSpec) -> float:
    try:
        return count_macs(lambda: untrained_network(teacher)) / count_macs(lambda: untrained_network(student))
    except (RuntimeError, ValueError) as error:
        names = f"{student.name} and {teacher.name}"
        raise ValueError(f"The cost of {names} per image could not be counted ({error}): give cost_ratio.") from error
