"""What the contrastive methods share: projections of both embeddings, a memory of every point, and negatives drawn from it."""

import math

import torch
from torch import Tensor, nn

from ..losses.common import unit
from ..models import ModelOutputs, ModelSpec
from .base import Batch
from .term import TermMethod

_32_BITS = 2**32 - 1


class ContrastiveMethod(TermMethod):
    """A method that tells a point's own pair of embeddings from pairs with other points, which it remembers.

    Both embeddings are projected by a linear layer each (trained with the student, never exported) to `embedding_dim`
    entries and unit length; `ContrastMemory` scores them against the other network's. All of it is computed in float32,
    outside autocast. A mixed row counts as its point, with its label; its partner may be among its negatives.

    Memory: `8 embedding_dim + 12` bytes per point of the whole training set on the accelerator and in checkpoints (51 MB
    for CIFAR's 50,000, 1.3 GB for ImageNet), and a few matrices of batch size x `num_negatives` within a step.

    Args:
        student: What the student hands out.
        teacher: What the teacher hands out.
        num_points: Number of points of the whole training set.
        embedding_dim: Width of the common space.
        num_negatives: K, the negatives of a row; as many as the classes leave where there are fewer.
        score_temperature: What the cosines are divided by, at least 0.02: exp(1 / 0.01) is beyond float32.
        momentum: Share of the old entry in a memory's new one, from 0 to below 1.
        **class_weights: As in `TermMethod`.
    """

    student_reads = frozenset({"logits", "embedding"})
    teacher_reads = frozenset({"logits", "embedding"})
    unsynchronised_buffers = ("memory.student", "memory.teacher", "memory.last_epoch")

    def __init__(
        self,
        student: ModelSpec,
        teacher: ModelSpec,
        num_points: int,
        *,
        embedding_dim: int = 128,
        num_negatives: int = 16384,
        score_temperature: float = 0.07,
        momentum: float = 0.5,
        **class_weights: float,
    ) -> None:
        super().__init__(student, teacher, num_points, **class_weights)
        for name, value in (("embedding_dim", embedding_dim), ("num_negatives", num_negatives)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value}: give a whole number of at least 1.")
        if not 0.02 <= score_temperature < math.inf:
            raise ValueError(f"score_temperature is {score_temperature}: give at least 0.02; the papers use 0.07.")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum}: give a number from 0 to below 1; the papers use 0.5.")
        self.score_temperature = score_temperature
        self.student_projection = nn.Linear(student.embedding_dim, embedding_dim)
        self.teacher_projection = nn.Linear(teacher.embedding_dim, embedding_dim)
        self.memory = ContrastMemory(num_points, embedding_dim, num_negatives, momentum)

    def contrast(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> tuple[Tensor, ...]:
        """Project the embeddings, compare them with the memory, and remember them.

        Returns:
            Unit embeddings of student and teacher, [B, embedding_dim], and the cosines of either with the other's memory,
            [B, K + 1], the own point's first; all with gradient to the projections, and to the student.

        Raises:
            ValueError: When `labels` is not set, is not one for each point, or leaves a class without negatives.
        """
        if self.memory.point_labels is None:
            self.memory.set_labels(self.labels)
        with torch.autocast(student.embedding.device.type, enabled=False):
            embeddings = (
                unit(self.student_projection(student.embedding.to(self.student_projection.weight.dtype))),
                unit(self.teacher_projection(teacher.embedding.to(self.teacher_projection.weight.dtype))),
            )
            cosines = self.memory(*embeddings, batch["point_ids"], int(self.epoch))
        return *embeddings, *cosines


class ContrastMemory(nn.Module):
    """An embedding of every point by student and by teacher, and the draw of a row's negatives among them.

    Which points are negatives: each row's are K points of other classes, drawn uniformly without replacement. All rows of a
    step, on all processes, share one random order of the points, of which each takes the first K of other classes; so one
    matrix product gives all cosines. The order is a function of a seed, which the constructor draws from torch's global
    generator, of the step and of the point ids alone: the same on every device and process, and after a restart.

    Points dropped by condensation: their entries go stale while the projections move on. Points that were seen in the
    present epoch or the one before it come first in the order (in epoch 0: all points, most of which are noise as yet);
    others serve where those are too few. A point that returns counts again from its first step on.

    Args:
        num_points: N, of the whole training set.
        embedding_dim: Width of the embeddings.
        num_negatives: K, at most.
        momentum: Share of the old entry in the new one.
    """

    def __init__(self, num_points: int, embedding_dim: int, num_negatives: int, momentum: float) -> None:
        super().__init__()
        self.num_points = num_points
        self.num_negatives = num_negatives
        self.momentum = momentum
        self.point_labels: Tensor | None = None
        # Every process starts with the same noise, which is not sent: hence a generator of its own.
        generator = torch.Generator().manual_seed(num_points)
        noise = (2 * torch.rand(2, num_points, embedding_dim, generator=generator) - 1) * math.sqrt(3 / embedding_dim)
        self.register_buffer("student", noise[0].clone())
        self.register_buffer("teacher", noise[1].clone())
        # -1 for a point that was not seen yet.
        self.register_buffer("last_epoch", torch.full((num_points,), -1, dtype=torch.int32))
        self.register_buffer("seed", torch.randint(2**31, ()))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def set_labels(self, labels: Tensor | None) -> None:
        """Say which class each point has, and fix the number of negatives by it.

        Args:
            labels: int64 [N], on the CPU.

        Raises:
            ValueError: When they are missing, are not one for each point, or are all the same.
        """
        if labels is None:
            raise ValueError(
                "The method's labels are not set, and negatives are points of other classes: set `method.labels` to the "
                "class of every point, int64 [num_points]; DistillationTrainer does it."
            )
        if labels.shape != (self.num_points,):
            raise ValueError(f"labels has shape {list(labels.shape)}: give one for each point, [{self.num_points}].")
        # Among `num_candidates` points there are K of other classes for each row, however its own class is spread.
        largest = int(labels.unique(return_counts=True)[1].max())
        if largest == self.num_points:
            raise ValueError("All points are of one class, so that none has a negative: give at least two classes.")
        self.num_negatives = min(self.num_negatives, self.num_points - largest)
        self.num_candidates = self.num_negatives + largest
        self.point_labels = labels

    def forward(self, student: Tensor, teacher: Tensor, ids: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Compute the cosines with the other network's memory, then renew the entries of the batch.

        Args:
            student: Unit embeddings [B, embedding_dim].
            teacher: Likewise.
            ids: Point ids [B], int64.
            epoch: Number of the epoch, from 0.

        Returns:
            Cosines of the student's embeddings with the teacher's memory and of the teacher's with the student's, both
            [B, K + 1]: the own point's first, then its negatives'. The memory receives no gradient.
        """
        compared, positions = self.draw(ids, epoch)
        student_cosines = (student @ self.teacher[compared].mT).gather(1, positions)
        teacher_cosines = (teacher @ self.student[compared].mT).gather(1, positions)
        self._remember(student.detach(), teacher.detach(), ids, epoch)
        return student_cosines, teacher_cosines

    @torch.no_grad()
    def draw(self, ids: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Draw the negatives of the present step.

        Args:
            ids: Point ids of the rows [B], int64.
            epoch: Number of the epoch, from 0.

        Returns:
            Ids of points [M + B], the candidates, which are distinct, before the rows' own; and for each row positions
            among them, [B, K + 1]: its own point's, then its negatives'. Both int64.
        """
        self.point_labels = self.point_labels.to(ids.device)
        order = random_ranks(self.num_points, self.seed, self.step)
        # Ranks have 32 bits; what is stale comes after all that is not.
        order = order + ((self.last_epoch < epoch - 1).long() << 32)
        candidates = order.argsort()[: self.num_candidates]
        other = self.point_labels[candidates] != self.point_labels[ids][:, None]
        # The n-th of another class goes to column n; the last column takes what is not wanted, and is cut off.
        column = torch.where(other, other.cumsum(1), self.num_negatives + 1).clamp_max_(self.num_negatives + 1)
        places = torch.arange(len(candidates) + len(ids), device=ids.device)
        positions = column.new_empty(len(ids), self.num_negatives + 2)
        positions.scatter_(1, column, places[: len(candidates)].expand_as(column))
        positions[:, 0] = places[len(candidates) :]
        return torch.cat([candidates, ids]), positions[:, :-1]

    @torch.no_grad()
    def _remember(self, student: Tensor, teacher: Tensor, ids: Tensor, epoch: int) -> None:
        ids = gather_rows(ids)
        student, teacher = gather_rows(torch.cat([student, teacher], dim=1)).chunk(2, dim=1)
        # A point that fills up a round is there twice: its first row counts, so that no order of writing matters.
        first = (ids[:, None] == ids).int().argmax(1)
        for memory, embedding in ((self.student, student), (self.teacher, teacher)):
            renewed = self.momentum * memory[ids] + (1 - self.momentum) * embedding[first]
            memory.index_copy_(0, ids, unit(renewed))
        self.last_epoch.index_fill_(0, ids, epoch)
        self.step += 1


def random_ranks(num_points: int, seed: Tensor, step: Tensor) -> Tensor:
    """Give each point a random number of 32 bits, no two the same: sorted by it, they stand in a random order.

    Args:
        num_points: N.
        seed: int64 scalar, from 0 to 2^32 - 1.
        step: Likewise; each step has an order of its own.

    Returns:
        int64 [N], the same on every device.
    """
    key = _scramble(seed ^ _scramble(step))
    points = torch.arange(num_points, device=seed.device)
    # Twice, so that where the keys of two steps are near, the one order is not the other one shifted.
    once = _scramble((points + key) & _32_BITS)
    return _scramble((once + key) & _32_BITS)


def _scramble(words: Tensor) -> Tensor:
    """Map words of 32 bits one to one onto others that look random: shifts and odd multipliers, below 2^63 throughout."""
    words = (words ^ (words >> 15)) * 0x2C1B3C6D & _32_BITS
    words = (words ^ (words >> 12)) * 0x297A2D39 & _32_BITS
    return words ^ (words >> 15)


def gather_rows(rows: Tensor) -> Tensor:
    """Join the rows of all processes, first those of the first; without gradient.

    Args:
        rows: [B, ...], as many on each process.

    Returns:
        [world size x B, ...], the same on each process; `rows` where there is but one.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, rows.detach().contiguous())
    return torch.cat(parts)
