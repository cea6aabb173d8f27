"""The trained module: student and method in one, so that DDP, AMP and compilation see every trainable weight."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from operator import attrgetter

import torch
from torch import Tensor, nn

from ..methods import DistillationMethod, as_teachers
from ..models import ModelOutputs, ModelSpec, OutputReader, image_config
from ..models.lending import lent
from ..models.recomputation import one_update_per_step, recomputes
from .teacher_images import TeacherImages


class DistillationModel(nn.Module):
    """A student with its distillation method. It also runs the teacher, which is not a submodule.

    Called with images alone, it is the student. Attributes it lacks (`num_classes`, `default_cfg`) come from the student.
    Teachers are never saved and never wrapped. While the model is `in_use` they are in eval mode, frozen and on the student's
    device; then they are left as they came. `mean`, `std` and `image_size` are of the student's images; a teacher of larger
    images gets `teacher_pixel_values` where a batch has them. `channels_last` is the memory format of student and teachers in
    use. `teacher_columns` has, for each teacher, the columns of its logits in the order of the data's classes; None as they are.
    """

    # The Trainer would count labels and pass the count to a forward that takes **kwargs.
    accepts_loss_kwargs = False
    main_input_name = "pixel_values"

    def __init__(
        self,
        student: nn.Module,
        method: DistillationMethod,
        teacher: nn.Module | Sequence[nn.Module] | None,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        image_size: tuple[int, int],
        channels_last: bool = False,
        teacher_columns: Sequence[list[int] | None] | None = None,
    ) -> None:
        super().__init__()
        self.student, self.method = student, method
        # In a tuple, teachers are not submodules: not in the state dict, not in DDP's buckets, never in train mode.
        self.teachers = tuple(as_teachers(teacher))
        self.in_first_phase = False
        self._memory_format = torch.channels_last if channels_last else torch.preserve_format
        method.to(memory_format=self._memory_format)
        self._in_use = False
        self._in_train_mode: list[nn.Module] = []
        for number, one in enumerate(teacher_columns or ()):
            columns = None if one is None else torch.tensor(one)
            self.register_buffer(f"teacher_columns_{number}", columns, persistent=False)
        # The values of points come from the student's logits, whatever the method reads.
        student_reads = method.student_reads | {"logits"}
        self._read_student = _reader(method, "student", student, student_reads, method.student_spec)
        self._image_size = max(image_size)
        self._read_teachers: list[tuple[TeacherImages, OutputReader]] = []
        if method.teacher_reads and self.teachers:
            for one, spec in zip(self.teachers, as_teachers(method.teacher_spec), strict=True):
                images = TeacherImages(image_config(one), mean, std)
                self._read_teachers.append((images, _reader(method, "teacher", one, method.teacher_reads, spec)))
        # DDP skips these when it broadcasts buffers at every step.
        self._ddp_params_and_buffers_to_ignore = [f"method.{name}" for name in method.unsynchronized_buffers]

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("student"), name)

    @property
    def teacher(self) -> nn.Module | None:
        """The network to learn from; the first of several."""
        return self.teachers[0] if self.teachers else None

    @property
    def teacher_sizes(self) -> set[int]:
        """Height or width, the larger, of the images that each teacher is shown; empty when none of them is."""
        return {max(images.size) for images, _ in self._read_teachers}

    @contextmanager
    def in_use(self, checkpointing: bool = False) -> Iterator["DistillationModel"]:
        """Prepare the networks for many steps; afterwards leave them as they were, up to what the student learned.

        Args:
            checkpointing: Whether gradient checkpointing will be switched on meanwhile.
        """
        if self._in_use:
            yield self
            return
        with ExitStack() as stack:
            stack.enter_context(lent(self.student, modes=False))
            self.student.to(memory_format=self._memory_format)
            stack.enter_context(self._teaching())
            for reader in (self._read_student, *(reader for _, reader in self._read_teachers)):
                stack.enter_context(reader.attached())
            if checkpointing or recomputes(self.student):
                stack.enter_context(one_update_per_step(self.student))
            self._in_use = True
            try:
                yield self
            finally:
                self._in_use = False

    @contextmanager
    def first_phase(self) -> Iterator[None]:
        """Compute the losses of the method's first phase in a block."""
        self.in_first_phase = True
        try:
            yield
        finally:
            self.in_first_phase = False

    @contextmanager
    def _teaching(self) -> Iterator[None]:
        """Prepare the teachers, and leave them as they were."""
        device = next(self.student.parameters()).device
        with ExitStack() as stack:
            for teacher in self.teachers:
                stack.enter_context(lent(teacher))
                teacher.eval().requires_grad_(False).to(device=device, memory_format=self._memory_format)
                if self.method.teacher_batch_statistics:
                    use_batch_statistics(teacher)
            for images, _ in self._read_teachers:
                images.apply(lambda tensor: tensor.to(device))
            yield

    def train(self, mode: bool = True) -> "DistillationModel":
        super().train(mode)
        # Frozen modules of the student stay in evaluation mode: their batch statistics do not change.
        for module in self.student.modules():
            weights = list(module.parameters())
            if weights and not any(weight.requires_grad for weight in weights):
                module.eval()
        networks = [self.student]
        # A method may freeze what a phase without the student has trained.
        if self.method.first_phase is None or self.method.first_phase.trains_student:
            networks += self.method.networks().values()
        self._in_train_mode = [module for network in networks for module in network.modules() if module.training]
        return self

    def trains_throughout(self) -> bool:
        """Return whether everything that `train` put in train mode still is; much quicker than to call it again."""
        return self.training and all(map(_training, self._in_train_mode))

    def _apply(self, fn, recurse=True):
        # Out of use, teachers belong to whoever passed them.
        if self._in_use:
            for teacher in self.teachers:
                teacher._apply(fn, recurse)
            for images, _ in self._read_teachers:
                images.apply(fn)
        return super()._apply(fn, recurse)

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, teacher_logits: Tensor | None = None, **batch: Tensor
    ) -> Tensor | dict[str, Tensor | dict[str, Tensor]]:
        """Run the student on images [B, C, H, W]; with labels [B], run a distillation step up to the loss.

        A step returns `loss` and its `parts`, and, where the student ran, what values of points are computed from, without
        gradient: `student_logits`, `teacher_logits` (absent without a teacher), `labels` and `point_ids`.
        """
        if labels is None:
            return self.student(pixel_values)
        method = self.method
        batch = method.prepare_batch({"pixel_values": pixel_values, "labels": labels, **batch}, self.student)
        images = batch["pixel_values"]
        teacher = None if teacher_logits is None else ModelOutputs(logits=teacher_logits)
        if teacher is None and method.teacher_reads:
            teacher = self._run_teachers(images, batch.get("teacher_pixel_values", images))
        runs_student = not self.in_first_phase or method.first_phase.trains_student
        student = self._read_student(images) if runs_student else None
        losses = method.first_phase_losses if self.in_first_phase else method
        parts = losses(student, teacher, batch)
        outputs = {"loss": sum(parts.values()), "parts": {name: part.detach() for name, part in parts.items()}}
        if student is None:
            return outputs
        return outputs | method.observation(student, teacher[0] if method.many_teachers else teacher, batch)

    @torch.no_grad()
    def _run_teachers(self, images: Tensor, larger_images: Tensor) -> ModelOutputs | list[ModelOutputs]:
        outputs = []
        with nullcontext() if self._in_use else self._teaching():
            for prepare, read in self._read_teachers:
                shown = prepare(larger_images if max(prepare.size) > self._image_size else images)
                outputs.append(read(shown.to(_dtype(read.model))))
        for number, output in enumerate(outputs):
            columns = getattr(self, f"teacher_columns_{number}", None)
            if columns is not None and output.logits is not None:
                output.logits = output.logits.index_select(1, columns)
        return outputs if self.method.many_teachers else outputs[0]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the student's activations in the backward pass instead of storing them (timm's interface)."""
        self.student.set_grad_checkpointing(enable)

    def activation_checkpointing_enable(self, activation_checkpointing_kwargs: dict | None = None, **_) -> None:
        """The Trainer's name for `set_grad_checkpointing`."""
        self.set_grad_checkpointing(True)

    gradient_checkpointing_enable = activation_checkpointing_enable


# Per step over hundreds of modules: three times quicker than an expression.
_training = attrgetter("training")


def _dtype(network: nn.Module) -> torch.dtype:
    return next(network.parameters()).dtype


def use_batch_statistics(network: nn.Module) -> None:
    """Let the batch norms of a network in eval mode use the statistics of each batch; their running ones stay."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.training = True
            module.track_running_stats = False


def _reader(
    method: DistillationMethod, role: str, network: nn.Module, reads: frozenset[str], spec: ModelSpec
) -> OutputReader:
    try:
        return OutputReader(network, reads, spec.layers)
    except ValueError as error:
        listed = ", ".join(sorted(reads))
        raise ValueError(f"Method {type(method).__name__} reads {listed} of the {role}. {error}") from error
