"""SSKD: the student also matches the teacher's predictions on rotated images, and their similarities."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..losses import cross_entropy_loss, sskd_losses
from ..losses.common import check_shares, check_temperature, product, unit, widen
from ..models import ModelOutputs
from .base import IMAGES, Batch, DistillationMethod, FirstPhase, check_weights, register_method


@register_method("sskd")
class SSKD(DistillationMethod):
    """0.1 CE + 0.9 T^2 KL of the upright images + 2.7 T^2 KL of the rotated ones + 10 T^2 KL of their similarities.

    Every image comes four times, rotated by 0, 90, 180 and 270 degrees, and each network has a projection head of two layers
    on its embedding. A first phase trains the teacher's head alone to tell, by cosine similarity, which upright image of the
    batch a rotated one comes from. Then that head is frozen, and the student's head trains with the student.

    The value of a point comes from the student's logits of its upright copy. All four copies share a batch, and so its
    statistics, as in the authors' code, which crops each copy separately; here they are rotations of one crop. A single copy
    has the same distribution in both.

    Args:
        student: The spec of a network for square images.
        ce_weight, kd_weight: Weights of the upright images' cross-entropy and divergence.
        rotation_weight, similarity_weight: Weights of the rotated images' divergence and of their similarities'.
        temperature, rotation_temperature, similarity_temperature: T of the three divergences, positive.
        rotation_keep_ratio, similarity_keep_ratio: Share, 0 to 1, of the rotated images that are kept although the teacher
            misses their class, or the image they come from.
        first_phase_epochs, first_phase_learning_rate: Epochs of the first phase, at least 1, and its learning rate.
        first_phase_decay_epochs: Its epochs after which the learning rate becomes a tenth.

    Source: Xu et al., "Knowledge Distillation Meets Self-Supervision", ECCV 2020, with the weights of the authors' code.
    """

    paper = "Xu et al., 2020"
    prepares_teacher_images = True
    reads = ("logits", "embedding")
    fewest_points = 2

    def __init__(
        self,
        *args,
        ce_weight: float = 0.1,
        kd_weight: float = 0.9,
        rotation_weight: float = 2.7,
        similarity_weight: float = 10.0,
        temperature: float = 4.0,
        rotation_temperature: float = 4.0,
        similarity_temperature: float = 0.5,
        rotation_keep_ratio: float = 1.0,
        similarity_keep_ratio: float = 0.75,
        first_phase_epochs: int = 60,
        first_phase_learning_rate: float = 0.05,
        first_phase_decay_epochs: Sequence[float] = (30, 45),
    ) -> None:
        super().__init__(*args)
        student, teacher = self.student_spec, self.teacher_spec
        _, height, width = student.input_size
        if height != width:
            raise ValueError(
                f"Images of {student.name} are {height} x {width}: create it for square ones, to rotate them."
            )
        self.weights = {"ce": ce_weight, "kd": kd_weight, "rotation": rotation_weight, "similarity": similarity_weight}
        check_weights(**{f"{name}_weight": weight for name, weight in self.weights.items()})
        temperatures = {"rotation_temperature": rotation_temperature, "similarity_temperature": similarity_temperature}
        temperatures["temperature"] = temperature
        ratios = {"rotation_keep_ratio": rotation_keep_ratio, "similarity_keep_ratio": similarity_keep_ratio}
        for name, value in temperatures.items():
            check_temperature(value, name)
        check_shares(**ratios)
        self.loss_options = temperatures | ratios
        decay_epochs = tuple(first_phase_decay_epochs)
        self.first_phase = FirstPhase(first_phase_epochs, False, first_phase_learning_rate, decay_epochs)
        self.student_head = _projection_head(student.embedding_dim)
        self.teacher_head = _projection_head(teacher.embedding_dim)

    @property
    def step_cost(self) -> float:
        return 4.0

    def num_rows(self, num_points: int) -> int:
        return 4 * num_points

    def prepare_batch(self, batch: Batch, student: nn.Module) -> Batch:
        return {
            name: _rotated(values) if name in IMAGES else values.repeat_interleave(4, 0)
            for name, values in batch.items()
        }

    def point_rows(self, batch: Batch) -> slice:
        return slice(None, None, 4)

    def first_phase_losses(self, student: None, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        (embedding,) = widen(self.teacher_head(teacher.embedding))
        groups = unit(embedding).unflatten(0, (-1, 4))
        similarities = product(groups[:, 1:].flatten(0, 1), groups[:, 0].mT)
        origins = torch.arange(len(groups), device=embedding.device).repeat_interleave(3)
        return {"origin": cross_entropy_loss(similarities, origins)}

    def forward(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            teacher_embedding = self.teacher_head(teacher.embedding)
        embeddings = self.student_head(student.embedding), teacher_embedding
        parts = sskd_losses(student.logits, teacher.logits, *embeddings, batch["labels"][::4], **self.loss_options)
        return {name: weight * parts[name] for name, weight in self.weights.items() if weight}


def _rotated(images: Tensor) -> Tensor:
    return torch.stack([images.rot90(quarter, (2, 3)) for quarter in range(4)], dim=1).flatten(0, 1)


def _projection_head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
