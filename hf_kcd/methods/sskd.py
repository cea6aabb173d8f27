"""SSKD: the student also matches what the teacher says of rotated images and of their likeness (Xu et al., 2020)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..losses import cross_entropy_loss, sskd_losses
from ..losses.common import check_temperature, product, unit, widen
from ..models import ModelOutputs, ModelSpec
from .base import Batch, DistillationMethod, check_weights
from .registry import register_method


@register_method("sskd")
class SSKD(DistillationMethod):
    """0.1 CE + 0.9 T^2 KL of the upright images + 2.7 T^2 KL of the rotated ones + 10 T^2 KL of their similarities.

    Every image comes four times, turned by 0, 90, 180 and 270 degrees, and each network has a projection head of two layers
    on its embedding. A first phase trains the teacher's head alone to tell, by cosine similarity, from which upright image
    of the batch a rotated one comes; then it is frozen, and the student's head trains with the student.

    A point's value is taken from the student's logits of its upright copy. All four copies share a batch, and so its
    statistics, as in the authors' code. What differs from that: here the copies are turned from one crop, there each is
    cropped for itself. Seen alone a copy is distributed as there; shifting it a second time would cut off more of the image
    than any crop does.

    Source: Xu et al., "Knowledge Distillation Meets Self-Supervision", ECCV 2020, with the weights of the authors' code.

    Args:
        student: What the student hands out; its images are square.
        teacher: What the teacher hands out.
        num_points: Number of points of the whole training set.
        ce_weight, kd_weight: Weights of the upright images' cross-entropy with their labels, and of their divergence.
        rotation_weight, similarity_weight: Weights of the rotated images' divergence, and of their similarities'.
        temperature, rotation_temperature, similarity_temperature: T of the three divergences, positive.
        rotation_keep_ratio: Share of the rotated images kept whose class the teacher misses, 0 to 1.
        similarity_keep_ratio: Share of the rotated images kept whose origin the teacher misses, 0 to 1.
        initialisation_epochs: Epochs of the first phase, at least 1.
        initialisation_learning_rate: Its learning rate.
        initialisation_decay_epochs: Its epochs after which the learning rate becomes a tenth.

    Raises:
        ValueError: When an option is out of range, or the student's images are not square.
    """

    student_reads = frozenset({"logits", "embedding"})
    teacher_reads = frozenset({"logits", "embedding"})
    initialisation_reads_student = False

    def __init__(
        self,
        student: ModelSpec,
        teacher: ModelSpec,
        num_points: int,
        *,
        ce_weight: float = 0.1,
        kd_weight: float = 0.9,
        rotation_weight: float = 2.7,
        similarity_weight: float = 10.0,
        temperature: float = 4.0,
        rotation_temperature: float = 4.0,
        similarity_temperature: float = 0.5,
        rotation_keep_ratio: float = 1.0,
        similarity_keep_ratio: float = 0.75,
        initialisation_epochs: int = 60,
        initialisation_learning_rate: float = 0.05,
        initialisation_decay_epochs: Sequence[float] = (30, 45),
    ) -> None:
        super().__init__(student, teacher, num_points)
        _, height, width = student.input_size
        if height != width:
            raise ValueError(
                f"The images of {student.name} are {height} x {width}, and turned by 90 degrees they are {width} x {height}: "
                "make it for square images."
            )
        self.weights = {"ce": ce_weight, "kd": kd_weight, "rotation": rotation_weight, "similarity": similarity_weight}
        check_weights(**{f"{name}_weight": weight for name, weight in self.weights.items()})
        temperatures = {
            "temperature": temperature,
            "rotation_temperature": rotation_temperature,
            "similarity_temperature": similarity_temperature,
        }
        ratios = {"rotation_keep_ratio": rotation_keep_ratio, "similarity_keep_ratio": similarity_keep_ratio}
        for name, value in temperatures.items():
            check_temperature(value, name)
        for name, value in ratios.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}: give a share from 0 to 1.")
        if initialisation_epochs < 1 or initialisation_epochs != int(initialisation_epochs):
            raise ValueError(
                f"initialisation_epochs is {initialisation_epochs}: give a whole number of at least 1, for an untrained head teaches nothing."
            )
        if not initialisation_learning_rate > 0:
            raise ValueError(
                f"initialisation_learning_rate is {initialisation_learning_rate}: give a positive number; the authors use 0.05."
            )
        self.loss_options = {**temperatures, **ratios}
        self.initialisation_epochs = int(initialisation_epochs)
        self.initialisation_learning_rate = initialisation_learning_rate
        self.initialisation_decay_epochs = tuple(initialisation_decay_epochs)
        self.student_head = _projection_head(student.embedding_dim)
        self.teacher_head = _projection_head(teacher.embedding_dim)

    @property
    def step_cost(self) -> float:
        return 4.0

    def prepare_batch(self, batch: Batch, student: nn.Module) -> Batch:
        images = batch["pixel_values"]
        turned = torch.stack([images.rot90(quarter, (2, 3)) for quarter in range(4)], dim=1).flatten(0, 1)
        return {name: values.repeat_interleave(4, 0) for name, values in batch.items()} | {"pixel_values": turned}

    def valued_rows(self, batch: Batch) -> slice:
        return slice(None, None, 4)

    def initialisation_losses(self, student: None, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        """Compute the cross-entropy of the teacher's similarities with where each rotated image comes from."""
        (embedding,) = widen(self.teacher_head(teacher.embedding))
        groups = unit(embedding).unflatten(0, (-1, 4))
        similarities = product(groups[:, 1:].flatten(0, 1), groups[:, 0].mT)
        origins = torch.arange(len(groups), device=embedding.device).repeat_interleave(3)
        return {"origin": cross_entropy_loss(similarities, origins)}

    def forward(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            teacher_embedding = self.teacher_head(teacher.embedding)
        parts = sskd_losses(
            student.logits,
            teacher.logits,
            self.student_head(student.embedding),
            teacher_embedding,
            batch["labels"][::4],
            **self.loss_options,
        )
        return {name: weight * parts[name] for name, weight in self.weights.items() if weight}


def _projection_head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
