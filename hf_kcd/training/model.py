"""The module that is trained: student and method in one, so that DDP, AMP and compilation see every trainable weight."""

import torch
from torch import Tensor, nn

from ..methods import DistillationMethod
from ..models import ModelOutputs, ModelSpec, OutputReader, image_config
from .teacher_images import TeacherImages


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
        image_size: Height and width of the images, in pixels.

    Raises:
        ValueError: When the method reads of a network what it does not hand out.
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
        image_size: tuple[int, int],
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
        self._read_student = _reader(
            method, "student", student, method.student_reads | {"logits"}, method.student_spec
        )
        self._read_teacher = self._teacher_images = None
        if method.teacher_reads:
            self._read_teacher = _reader(method, "teacher", teacher, method.teacher_reads, method.teacher_spec)
            self._teacher_images = TeacherImages(image_config(teacher), mean, std, image_size)

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("student"), name)

    @property
    def teacher(self) -> nn.Module | None:
        """The network that is learned from."""
        return self._teacher[0]

    def train(self, mode: bool = True) -> "DistillationModel":
        """Choose between training and evaluation mode; what is frozen of the student stays in the latter.

        A module none of whose weights is trained would otherwise go on changing its statistics and dropping units.
        """
        super().train(mode)
        for module in self.student.modules():
            weights = list(module.parameters())
            if weights and not any(weight.requires_grad for weight in weights):
                module.eval()
        return self

    def _apply(self, fn, recurse=True):
        if self.teacher is not None:
            self.teacher._apply(fn, recurse)
        if self._teacher_images is not None:
            self._teacher_images.apply(fn)
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
        teacher = self._run_teacher(images) if method.teacher_reads else None
        student = self._read_student(images)
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
    def _run_teacher(self, images: Tensor) -> ModelOutputs:
        return self._read_teacher(self._teacher_images(images))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the student's activations in the backward pass instead of keeping them (timm's interface)."""
        self.student.set_grad_checkpointing(enable)

    def activation_checkpointing_enable(self, activation_checkpointing_kwargs: dict | None = None, **_) -> None:
        """The Trainer's name for `set_grad_checkpointing`."""
        self.set_grad_checkpointing(True)

    gradient_checkpointing_enable = activation_checkpointing_enable


def _reader(
    method: DistillationMethod, role: str, network: nn.Module, reads: frozenset[str], spec: ModelSpec
) -> OutputReader:
    try:
        return OutputReader(network, reads, spec.layers)
    except ValueError as error:
        raise ValueError(
            f"Method {type(method).__name__} reads {', '.join(sorted(reads))} of the {role}. {error}"
        ) from error
