"""The cost of a run so far: points trained on and seconds of training, epoch by epoch."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..artifacts.files import read_json, write_json

COST_NAME = "cost.json"


class CostTracker:
    """Counts the points drawn and the seconds of training per epoch, without evaluation and saving.

    Every checkpoint holds it, so an interrupted run still states what it really paid.
    """

    def __init__(self, num_points: int, num_epochs: int) -> None:
        self.num_points, self.num_epochs = num_points, num_epochs
        self.points, self.seconds = [0] * num_epochs, [0.0] * num_epochs
        # A method's first phase is counted apart: its steps compute other things.
        self.first_phase_points, self.first_phase_seconds = 0, 0.0
        self._epoch: int | None = 0
        self._started: float | None = None

    @property
    def relative_cost(self) -> float:
        """C paid so far: points drawn, relative to all points in every epoch."""
        return sum(self.points) / (self.num_points * self.num_epochs)

    @property
    def first_phase_cost(self) -> float:
        """Points drawn in the first phase, relative to all points in every epoch of the training."""
        return self.first_phase_points / (self.num_points * self.num_epochs)

    @contextmanager
    def first_phase(self) -> Iterator[None]:
        """Count what happens in a block as the first phase."""
        self._epoch, started = None, time.perf_counter()
        try:
            yield
        finally:
            self._epoch = 0
            self.first_phase_seconds += time.perf_counter() - started

    def begin(self, epoch: int) -> None:
        """Start the clock for an epoch."""
        self._epoch = epoch
        self._started = time.perf_counter()

    def draw(self, num_points: int) -> None:
        """Count points of the current epoch, or of the first phase, over all processes."""
        if self._epoch is None:
            self.first_phase_points += num_points
        else:
            self.points[self._epoch] += num_points

    def stop(self) -> None:
        """Stop the clock."""
        if self._started is not None:
            self.seconds[self._epoch] += time.perf_counter() - self._started
            self._started = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock during a block that is not training."""
        running = self._started is not None
        self.stop()
        try:
            yield
        finally:
            if running:
                self._started = time.perf_counter()

    def save(self, folder: str | Path) -> None:
        """Write the cost into a checkpoint."""
        with self.paused():
            first_phase = {"points": self.first_phase_points, "seconds": self.first_phase_seconds}
            values = {"points": self.points, "seconds": self.seconds, "first_phase": first_phase}
            write_json(Path(folder) / COST_NAME, values)

    def load(self, folder: str | Path) -> None:
        """Read the cost from a checkpoint of the same run."""
        values = read_json(Path(folder) / COST_NAME)
        self.points, self.seconds = list(values["points"]), list(values["seconds"])
        first_phase = values.get("first_phase", {"points": 0, "seconds": 0.0})
        self.first_phase_points, self.first_phase_seconds = first_phase["points"], first_phase["seconds"]
