"""The module that is trained: student and method in one, so that DDP, AMP and compilation see every trainable weight."""

import torch
from torch import Tensor, nn

from ..methods import DistillationMethod
from ..models import ModelOutputs, ModelSpec, read_outputs


class DistillationModel(nn.Module):
    """A student under a distillation method, and beside them the teacher, which is no part of the module.

    Called with images alone it is the student. Names it does not have itself (`num_classes`, `default_cfg`) are looked up
    on the student.

    Args:
        student: The network that is trained.
        method: The method it is trained under.
        teacher: The network it learns from; put in eval mode and frozen here, never saved, never wrapped.
        mean: Per channel mean that the images were normalised with.
        std: Per channel standard deviation that the images were normalised with.
    """

    # The Trainer would count labels and pass the count to a forward that takes **kwargs.
    accepts_loss_kwargs = False
    main_input_name = "pixel_values"

    def __init__(
        self,
        student: nn.Module,
        method: DistillationMethod,
        teacher: nn.Module | None,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.student = student
        self.method = method
        if teacher is not None:
            teacher.eval().requires_grad_(False)
        # In a tuple the teacher is no submodule: not in the state dict, not in DDP's buckets, not put in train mode.
        self._teacher = (teacher,)
        self.initialising = False
        # Valuing the points takes the student's logits, whatever the method reads.
        self._student_reads = method.student_reads | {"logits"}
        self._renormalisation = None if teacher is None else _renormalisation(ModelSpec.of(teacher), mean, std)

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("student"), name)

    @property
    def teacher(self) -> nn.Module | None:
        """The network that is learned from."""
        return self._teacher[0]

    def _apply(self, fn, recurse=True):
        if self.teacher is not None:
            self.teacher._apply(fn, recurse)
        if self._renormalisation is not None:
            self._renormalisation = tuple(fn(tensor) for tensor in self._renormalisation)
        return super()._apply(fn, recurse)

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **batch: Tensor
    ) -> Tensor | dict[str, Tensor | dict[str, Tensor]]:
        """Run the student, or with labels a whole distillation step up to the loss.

        Args:
            pixel_values: Normalised images [B, C, H, W].
            labels: Class ids [B].
            **batch: The rest of the batch, `point_ids` [B] above all.

        Returns:
            The student's logits [B, classes] without labels. With them `loss` (scalar, with gradient), its `parts` by name,
            and, without gradient, `student_logits`, `teacher_logits` (absent without a teacher), `labels` and `point_ids`
            of the rows that stand for their points.
        """
        if labels is None:
            return self.student(pixel_values)
        method = self.method
        batch = method.prepare_batch({"pixel_values": pixel_values, "labels": labels, **batch}, self.student)
        images = batch["pixel_values"]
        teacher = self._read_teacher(images) if method.teacher_reads else None
        student = read_outputs(self.student, images, self._student_reads)
        losses = method.initialisation_losses if self.initialising else method
        parts = losses(student, teacher, batch)
        rows = method.valued_rows(batch)
        outputs = {
            "loss": sum(parts.values()),
            "parts": {name: part.detach() for name, part in parts.items()},
            "student_logits": student.logits.detach()[rows],
            "labels": batch["labels"][rows],
            "point_ids": batch["point_ids"][rows],
        }
        if teacher is not None and teacher.logits is not None:
            outputs["teacher_logits"] = teacher.logits[rows]
        return outputs

    @torch.no_grad()
    def _read_teacher(self, images: Tensor) -> ModelOutputs:
        if self._renormalisation is not None:
            scale, shift = self._renormalisation
            images = images * scale + shift
        return read_outputs(self.teacher, images, self.method.teacher_reads)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the student's activations in the backward pass instead of keeping them (timm's interface)."""
        self.student.set_grad_checkpointing(enable)

    def activation_checkpointing_enable(self, activation_checkpointing_kwargs: dict | None = None, **_) -> None:
        """The Trainer's name for `set_grad_checkpointing`."""
        self.set_grad_checkpointing(True)

    gradient_checkpointing_enable = activation_checkpointing_enable


def _renormalisation(
    teacher: ModelSpec, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[Tensor, Tensor] | None:
    """Scale and shift [1, C, 1, 1] from the data's normalisation to the teacher's; None where they are the same."""
    if tuple(teacher.mean) == tuple(mean) and tuple(teacher.std) == tuple(std):
        return None
    scale = torch.tensor(std) / torch.tensor(teacher.std)
    shift = (torch.tensor(mean) - torch.tensor(teacher.mean)) / torch.tensor(teacher.std)
    return scale.view(1, -1, 1, 1), shift.view(1, -1, 1, 1)
