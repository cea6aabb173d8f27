"""UNIX-KD: only the images that the student is least sure of are distilled, mixed with others (Xu et al., 2020)."""

import torch
from torch import Tensor, nn

from ..losses import kd_loss, unix_mask
from ..losses.common import check_temperature, soften
from ..models import ModelOutputs, ModelSpec
from ..models.catalog import count_macs
from .base import Batch, DistillationMethod
from .networks import untrained_network
from .registry import register_method


@register_method("unix")
class UNIX(DistillationMethod):
    """T^2 KL alone, on the k = 48 of n = 64 images with the highest entropy, mixed by lambda sigmoid(w (r / n - m)).

    The student looks at the drawn images first, without gradient. They are ranked by the entropy of its answers, each is
    mixed with a random one of the batch, the more the surer the student is (`unix_mask`; lambda is drawn from Beta(1, 1) for
    every batch), and the k first go through teacher and student. That look runs in training mode, as in the authors' code:
    the running statistics move twice in a step, once on unmixed images, as they are met in evaluation.

    A point's value is taken from the student's logits of that look, which all drawn points get. By the step alone the points
    that are never among the least sure would stay without a value, and unknown points rank first.
    What differs from the authors' code: of a smaller batch, the last of an epoch, the same shares are kept and mixed, where
    it keeps up to 48 images, mixed as the first of 64.

    Source: Xu et al., "Computation-Efficient Knowledge Distillation via Uncertainty-Aware Mixup", 2020.

    Args:
        student: What the student hands out.
        teacher: What the teacher hands out.
        num_points: Number of points of the whole training set.
        temperature: T, positive.
        keep_ratio: k / n, the share of the drawn images that is distilled, above 0 and up to 1.
        base_ratio: b / n, the share that stays nearly as it is, 0 to 1.
        steepness: w, not negative: how sharp the border between the two is.
        cost_ratio: F_t / F_s, how much more an image costs the teacher than the student; None counts both networks.

    Raises:
        ValueError: When an option is out of range, or a network cannot be counted.
    """

    def __init__(
        self,
        student: ModelSpec,
        teacher: ModelSpec,
        num_points: int,
        *,
        temperature: float = 4.0,
        keep_ratio: float = 0.75,
        base_ratio: float = 0.5,
        steepness: float = 10.0,
        cost_ratio: float | None = None,
    ) -> None:
        super().__init__(student, teacher, num_points)
        check_temperature(temperature)
        if not 0 < keep_ratio <= 1:
            raise ValueError(f"keep_ratio is {keep_ratio}: give a share above 0 and up to 1; the authors keep 0.75.")
        if not 0 <= base_ratio <= 1:
            raise ValueError(f"base_ratio is {base_ratio}: give a share from 0 to 1; the authors use 0.5.")
        if not steepness >= 0:
            raise ValueError(f"steepness is {steepness}: give a number that is not negative; the authors use 10.")
        if cost_ratio is not None and not cost_ratio > 0:
            raise ValueError(f"cost_ratio is {cost_ratio}: give a positive number, or leave it out.")
        self.temperature = temperature
        self.keep_ratio = keep_ratio
        self.base_ratio = base_ratio
        self.steepness = steepness
        self.cost_ratio = _cost_ratio(student, teacher) if cost_ratio is None else cost_ratio

    @property
    def step_cost(self) -> float:
        """C = k / n + 1 / (F_t / F_s + 2): a backward pass counts as a forward one, and the first look as one of n images."""
        return self.keep_ratio + 1 / (self.cost_ratio + 2)

    def prepare_batch(self, batch: Batch, student: nn.Module) -> Batch:
        images = batch["pixel_values"]
        with torch.no_grad():
            looked = student(images)
            log_probabilities = soften(looked, 1.0)
        # The step casts its weights anew: older versions of torch would hand it those that autocast kept from the look,
        # through which no gradient flows.
        torch.clear_autocast_cache()
        entropy = -(log_probabilities.exp() * log_probabilities).sum(1)
        num_drawn = len(images)
        num_kept = max(1, round(self.keep_ratio * num_drawn))
        kept = entropy.argsort(descending=True, stable=True)[:num_kept]
        others = torch.randperm(num_drawn, device=images.device)[:num_kept]
        # Beta(1, 1) is uniform. Drawn on the CPU, it makes no step wait for the accelerator.
        strength = float(torch.rand(()))
        mask = unix_mask(num_drawn, round(self.base_ratio * num_drawn), self.steepness, strength)[:num_kept]
        mask = mask.to(images.device, images.dtype, non_blocking=True)[:, None, None, None]
        mixed = (1 - mask) * images[kept] + mask * images[others]
        prepared = {name: values[kept] for name, values in batch.items()} | {"pixel_values": mixed}
        return prepared | {"looked": looked, "drawn_labels": batch["labels"], "drawn_ids": batch["point_ids"]}

    def valued(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        return {"student_logits": batch["looked"], "labels": batch["drawn_labels"], "point_ids": batch["drawn_ids"]}

    def forward(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        return {"kd": kd_loss(student.logits, teacher.logits, self.temperature)}


def _cost_ratio(student: ModelSpec, teacher: ModelSpec) -> float:
    try:
        return count_macs(lambda: untrained_network(teacher)) / count_macs(lambda: untrained_network(student))
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"What an image costs {student.name} and {teacher.name} could not be counted ({error}): give cost_ratio, the "
            "teacher's cost in relation to the student's."
        ) from error
