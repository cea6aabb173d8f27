"""The base of contrastive methods: projected embeddings, a memory of every point, and negatives drawn from it."""

import math

import torch
from torch import Tensor, nn

from ..errors import whole_number
from ..losses.common import unit
from ..models import ModelOutputs
from .base import Batch
from .term import TermMethod

_32_BITS = 2**32 - 1


class ContrastiveMethod(TermMethod):
    """A method that tells a point's own pair of embeddings from pairs with other points, which it remembers.

    A linear layer per network projects the embedding to `embedding_dim` entries and unit length (trained with the student,
    never exported); `ContrastMemory` compares it with the other network's, in float32, outside autocast. A mixed row counts as
    its point; its partner may be among its negatives. Memory: `8 embedding_dim + 12` bytes per point on the accelerator and in
    checkpoints (51 MB for CIFAR's 50,000, 1.3 GB for ImageNet), and a few matrices of batch size x `num_negatives` in a step.

    Args:
        embedding_dim: Width of the common space.
        num_negatives: K, the negatives of a row; fewer if the classes leave fewer.
        score_temperature: Divides the cosines; at least 0.02, because exp(1 / 0.01) is beyond float32.
        momentum: Share of the old entry in a memory's new one, from 0 to below 1.
    """

    reads = ("logits", "embedding")
    unsynchronized_buffers = ("memory.student", "memory.teacher", "memory.last_epoch")

    def __init__(
        self,
        *args,
        embedding_dim: int = 128,
        num_negatives: int = 16384,
        score_temperature: float = 0.07,
        momentum: float = 0.5,
        **options,
    ) -> None:
        super().__init__(*args, **options)
        embedding_dim = whole_number("embedding_dim", embedding_dim)
        num_negatives = whole_number("num_negatives", num_negatives)
        if not 0.02 <= score_temperature < math.inf:
            raise ValueError(f"score_temperature is {score_temperature}: give at least 0.02; the papers use 0.07.")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum}: give a number from 0 to below 1; the papers use 0.5.")
        self.score_temperature = score_temperature
        self.student_projection = nn.Linear(self.student_spec.embedding_dim, embedding_dim)
        self.teacher_projection = nn.Linear(self.teacher_spec.embedding_dim, embedding_dim)
        self.memory = ContrastMemory(self.num_points, embedding_dim, num_negatives, momentum)

    @property
    def labels(self) -> Tensor | None:
        """Class of every point; setting them finds, before the first step, that one class leaves no negatives."""
        return self._labels

    @labels.setter
    def labels(self, labels: Tensor | None) -> None:
        self._labels = labels
        if labels is not None:
            self.memory.set_labels(labels)

    def contrast(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> tuple[Tensor, ...]:
        """Project the embeddings, compare them with the memory, and store them there.

        Returns unit embeddings of student and teacher, [B, embedding_dim], and the cosines of each, as the memory does.
        """
        if self.memory.point_labels is None:
            self.memory.set_labels(self.labels)
        sides = (self.student_projection, student.embedding), (self.teacher_projection, teacher.embedding)
        with torch.autocast(student.embedding.device.type, enabled=False):
            embeddings = [unit(projection(one.to(projection.weight.dtype))) for projection, one in sides]
            cosines = self.memory(*embeddings, batch["point_ids"], int(self.epoch))
        return *embeddings, *cosines


class ContrastMemory(nn.Module):
    """An embedding of every point by student and by teacher, and the draw of a row's negatives among them.

    A row's negatives are K points of other classes, drawn uniformly without replacement. All rows of a step, on all
    processes, share one random order of the points, and each row takes the first K of other classes; so one matrix product
    gives all cosines. The order depends only on a seed from torch's global generator, on the step and on the point ids: it is
    the same on every device and process, and after a restart. Points that were seen in the current epoch or the one before
    come first in it (in epoch 0: all points, most of them still noise), because entries of dropped points go stale.
    """

    def __init__(self, num_points: int, embedding_dim: int, num_negatives: int, momentum: float) -> None:
        super().__init__()
        self.num_points = num_points
        self.num_negatives = num_negatives
        self.momentum = momentum
        self.point_labels: Tensor | None = None
        # The noise is not sent between processes: a separate generator makes it the same on each of them.
        generator = torch.Generator().manual_seed(num_points)
        noise = (2 * torch.rand(2, num_points, embedding_dim, generator=generator) - 1) * math.sqrt(3 / embedding_dim)
        self.register_buffer("student", noise[0].clone())
        self.register_buffer("teacher", noise[1].clone())
        # -1 for points not seen yet.
        self.register_buffer("last_epoch", torch.full((num_points,), -1, dtype=torch.int32))
        self.register_buffer("seed", torch.randint(2**31, ()))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def set_labels(self, labels: Tensor | None) -> None:
        """Store the class of each point, int64 [N] on the CPU, and limit the number of negatives accordingly."""
        if labels is None:
            raise ValueError("The labels are not set: set `method.labels` to all points' classes, int64 [num_points].")
        if labels.shape != (self.num_points,):
            raise ValueError(f"labels has shape {list(labels.shape)}: give one per point, [{self.num_points}].")
        # Any `num_candidates` points hold K points of other classes for each row.
        largest = int(labels.unique(return_counts=True)[1].max())
        if largest == self.num_points:
            raise ValueError("All points have the same class, so that none has a negative: give at least two classes.")
        self.num_negatives = min(self.num_negatives, self.num_points - largest)
        self.num_candidates = self.num_negatives + largest
        self.point_labels = labels

    def forward(self, student: Tensor, teacher: Tensor, ids: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Compute the cosines of unit embeddings with the other network's memory, then update the entries of the batch.

        They are [B, K + 1]: the own point's first, then its negatives'. The memory receives no gradient.
        """
        compared, positions = self.draw(ids, epoch)
        student_cosines = (student @ self.teacher[compared].mT).gather(1, positions)
        teacher_cosines = (teacher @ self.student[compared].mT).gather(1, positions)
        self._update(student.detach(), teacher.detach(), ids, epoch)
        return student_cosines, teacher_cosines

    @torch.no_grad()
    def draw(self, ids: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Draw the negatives of the current step for the rows' point ids [B].

        Returns ids [M + B], the distinct candidates before the rows' own points, and for each row the positions of its own
        point and of its negatives among them, [B, K + 1].
        """
        self.point_labels = self.point_labels.to(ids.device)
        order = random_ranks(self.num_points, self.seed, self.step)
        # Ranks have 32 bits; stale points come after all others.
        order = order + ((self.last_epoch < epoch - 1).long() << 32)
        candidates = order.argsort()[: self.num_candidates]
        other = self.point_labels[candidates] != self.point_labels[ids][:, None]
        # The n-th point of another class goes to column n; the last column collects the rest and is cut off.
        column = torch.where(other, other.cumsum(1), self.num_negatives + 1).clamp_max_(self.num_negatives + 1)
        places = torch.arange(len(candidates) + len(ids), device=ids.device)
        positions = column.new_empty(len(ids), self.num_negatives + 2)
        positions.scatter_(1, column, places[: len(candidates)].expand_as(column))
        positions[:, 0] = places[len(candidates) :]
        return torch.cat([candidates, ids]), positions[:, :-1]

    @torch.no_grad()
    def _update(self, student: Tensor, teacher: Tensor, ids: Tensor, epoch: int) -> None:
        ids = gather_rows(ids)
        student, teacher = gather_rows(torch.cat([student, teacher], dim=1)).chunk(2, dim=1)
        # A point that fills up a round occurs twice. Its first row counts, so that the order of writing does not matter.
        first = (ids[:, None] == ids).int().argmax(1)
        for memory, embedding in ((self.student, student), (self.teacher, teacher)):
            updated = self.momentum * memory[ids] + (1 - self.momentum) * embedding[first]
            memory.index_copy_(0, ids, unit(updated))
        self.last_epoch.index_fill_(0, ids, epoch)
        self.step += 1


def random_ranks(num_points: int, seed: Tensor, step: Tensor) -> Tensor:
    """Return a distinct random number of 32 bits per point, int64 [N], the same on every device; sorting gives an order."""
    key = _scramble(seed ^ _scramble(step))
    points = torch.arange(num_points, device=seed.device)
    # Twice, so that for close keys of two steps one order is not the other one shifted.
    once = _scramble((points + key) & _32_BITS)
    return _scramble((once + key) & _32_BITS)


def _scramble(words: Tensor) -> Tensor:
    """Map 32-bit words one to one onto others that look random: shifts and odd multipliers, always below 2^63."""
    words = (words ^ (words >> 15)) * 0x2C1B3C6D & _32_BITS
    words = (words ^ (words >> 12)) * 0x297A2D39 & _32_BITS
    return words ^ (words >> 15)


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate the rows [B, ...] of all processes in their order, without gradient; equally many on each process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, rows.detach().contiguous())
    return torch.cat(parts)
