"""How many points every epoch trains on and what that costs: the arithmetic of Algorithm 1, known before training."""

import bisect
import dataclasses
import itertools
import math
import numbers
from functools import cached_property

from ..errors import unknown_name, whole_number

SHAPES = ("exponential", "linear")
FIRST_SELECTIONS = ("after_first_epoch", "after_first_stage")


@dataclasses.dataclass(frozen=True)
class CondensationSchedule:
    """The number of kept points, batches and updates of every epoch.

    Epochs count from 0. A selection happens between two epochs and is named after the second of them.

    Args:
        num_points, num_epochs: Points in the data set, N, and epochs of the whole training, I.
        epochs_per_stage: Epochs between two selections, T.
        final_ratio: Ratio of points kept at the end, rho in (0, 1]; 1 keeps all of them.
        shape: `"exponential"` keeps floor(N rho^(c T / I)) points after c selections (paper, section 4);
            `"linear"` drops int(N (1 - rho) / S) points at each, S being the number of stages (released code).
        first_selection: `"after_first_epoch"` selects after epochs 0, T, 2T, ... (Algorithm 1, line 8), also after the
            last; `"after_first_stage"` before epochs T, 2T, ... and, when T divides I, once more after the last epoch,
            where it shapes only the mask (released code).
        batch_size: Points in a batch of one process; needed to count batches and updates.
        world_size, accumulation: Number of processes, and batches per optimizer update.
        drop_last: Whether an incomplete last batch is left out, or an incomplete round of batches over the processes.

    Raises:
        ValueError: For a value out of its range, a schedule that never selects, or an epoch without a batch.
    """

    num_points: int
    num_epochs: int
    epochs_per_stage: int
    final_ratio: float
    shape: str = "exponential"
    first_selection: str = "after_first_epoch"
    _: dataclasses.KW_ONLY
    batch_size: int | None = None
    world_size: int = 1
    accumulation: int = 1
    drop_last: bool = False

    def __post_init__(self) -> None:
        for name in ("num_points", "num_epochs", "epochs_per_stage", "batch_size", "world_size", "accumulation"):
            value = getattr(self, name)
            if name != "batch_size" or value is not None:
                # TrainingArguments keeps its number of epochs as a float: 240.0 is as good as 240.
                hint = "Epochs under condensation are whole: each ends with a recording." if "epochs" in name else ""
                object.__setattr__(self, name, whole_number(name, value, hint=hint))
        if not (isinstance(self.final_ratio, numbers.Real) and 0 < self.final_ratio <= 1):
            raise ValueError(f"final_ratio is {self.final_ratio!r}: give a share of the points, above 0 and up to 1.")
        for name, valid in {"shape": SHAPES, "first_selection": FIRST_SELECTIONS}.items():
            if getattr(self, name) not in valid:
                raise unknown_name(name, getattr(self, name), valid)
        if self.final_ratio < 1 and self.stage(self.num_epochs - 1) == 0:
            raise ValueError(
                f"epochs_per_stage={self.epochs_per_stage} never selects within num_epochs={self.num_epochs} when "
                f"first_selection={self.first_selection!r}. Train longer, shorten the stages, or set final_ratio=1."
            )
        if self.batch_size is not None and self.batches(self.num_epochs - 1) == 0:
            raise ValueError(
                f"drop_last leaves no batch in the last epoch: {self.num_kept(self.num_epochs - 1)} points do not fill "
                f"batch_size={self.batch_size} on world_size={self.world_size} processes. Use smaller batches, or keep the last."
            )

    @property
    def num_stages(self) -> int:
        """Number of stages, S = ceil(I / T)."""
        return _ceil_div(self.num_epochs, self.epochs_per_stage)

    @property
    def relative_cost(self) -> float:
        """Points trained on, relative to training on all of them in every epoch: C of Eq. 16, as really trained."""
        return self.absolute_cost / (self.num_points * self.num_epochs)

    @cached_property
    def absolute_cost(self) -> int:
        """Number of points trained on, counted once per epoch: C_a of section 3.5, as really trained."""
        return sum(self.num_kept(epoch) for epoch in range(self.num_epochs))

    @property
    def total_updates(self) -> int:
        """Number of optimizer updates of the whole training."""
        return self._first_updates[-1]

    def stage(self, epoch: int) -> int:
        """Return the stage of an epoch: the number of selections before it; `num_epochs` is the state after training."""
        self._check_epoch(epoch, last=self.num_epochs)
        if self.first_selection == "after_first_epoch":
            return _ceil_div(epoch, self.epochs_per_stage)
        return epoch // self.epochs_per_stage

    def selects_before(self, epoch: int) -> bool:
        """Return whether points are selected just before an epoch, or after training for `num_epochs`."""
        self._check_epoch(epoch, last=self.num_epochs)
        return epoch > 0 and self.stage(epoch) > self.stage(epoch - 1)

    def num_kept(self, epoch: int) -> int:
        """Return the number of points an epoch trains on, at least 1; `num_epochs` is the state after training."""
        selections = self.stage(epoch)
        if self.shape == "exponential":
            exponent = min(1.0, selections * self.epochs_per_stage / self.num_epochs)
            return max(1, self._floor(self.num_points * self.final_ratio**exponent))
        dropped = self._floor(self.num_points * (1 - self.final_ratio) / self.num_stages)
        return max(1, self.num_points - selections * dropped)

    def with_batches(
        self, batch_size: int, world_size: int = 1, accumulation: int = 1, drop_last: bool = False
    ) -> "CondensationSchedule":
        """Return the same schedule with its batches known."""
        return dataclasses.replace(
            self, batch_size=batch_size, world_size=world_size, accumulation=accumulation, drop_last=drop_last
        )

    def batches(self, epoch: int) -> int:
        """Return the number of batches each process sees in an epoch; it needs `batch_size`."""
        self._check_epoch(epoch, last=self.num_epochs - 1)
        if self.batch_size is None:
            raise ValueError(
                "Batches cannot be counted without batch_size: give it, or call with_batches(batch_size)."
            )
        num_kept = self.num_kept(epoch)
        if self.drop_last:
            return num_kept // self.batch_size // self.world_size
        return _ceil_div(_ceil_div(num_kept, self.batch_size), self.world_size)

    def batch_rows(self, epoch: int) -> tuple[int, int]:
        """Return the points in the smallest and in the largest batch of an epoch; several processes fill up the last one."""
        size, num_kept = self.batch_size, self.num_kept(epoch)
        if size is None:
            raise ValueError("Batches have no size yet: give batch_size, or call with_batches(batch_size).")
        if self.drop_last or self.world_size > 1:
            return size, size
        return num_kept % size or size, min(size, num_kept)

    def updates(self, epoch: int) -> int:
        """Return the number of optimizer updates in an epoch; the last one may gather fewer batches."""
        return _ceil_div(self.batches(epoch), self.accumulation)

    def locate(self, step: int) -> tuple[int, int]:
        """Find the epoch, and how many of its batches are done, after a number of optimizer updates.

        The end of epoch e is (e + 1, 0).
        """
        epoch, updates = self._locate_update(step)
        return epoch, updates * self.accumulation

    def epoch_at(self, step: int) -> float:
        """Return the time in epochs after a number of optimizer updates, from 0 to `total_updates`."""
        epoch, updates = self._locate_update(step)
        return epoch + updates / self.updates(epoch) if updates else float(epoch)

    def _locate_update(self, step: int) -> tuple[int, int]:
        if not 0 <= step <= self.total_updates:
            raise ValueError(f"step is {step}, but this schedule has steps 0 to {self.total_updates}.")
        epoch = bisect.bisect_right(self._first_updates, step) - 1
        return epoch, step - self._first_updates[epoch]

    @cached_property
    def _first_updates(self) -> list[int]:
        """Updates done before each epoch, and in total; cached, because every step asks for it."""
        return list(itertools.accumulate((self.updates(epoch) for epoch in range(self.num_epochs)), initial=0))

    def _check_epoch(self, epoch: int, last: int) -> None:
        if not 0 <= epoch <= last:
            raise ValueError(f"epoch is {epoch}, but here it runs from 0 to {last}.")

    def _floor(self, size: float) -> int:
        # Floats know the ratio to 1e-16, so that 60 * (1 - 0.9) / 6 is a hair below 1.
        return math.floor(size + 1e-12 * self.num_points)


def _ceil_div(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)
