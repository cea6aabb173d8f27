"""A selection in shared memory, so that workers that outlive an epoch see every change."""

import torch

from ..condensation.selection import Selection


class LiveSelection:
    """The current selection of a data set, all of its points at first."""

    def __init__(self, num_points: int) -> None:
        self._length = torch.tensor(num_points).share_memory_()
        every = Selection.of(torch.arange(num_points))
        self._buffers = Selection(*(values.share_memory_() for values in every))

    def __len__(self) -> int:
        return int(self._length)

    def copy(self) -> "LiveSelection":
        """Return the same selection in other memory."""
        other = LiveSelection(len(self._buffers.points))
        other.write(self.read())
        return other

    def write(self, selection: Selection) -> None:
        """Replace the selection, in place."""
        for buffer, values in zip(self._buffers, selection, strict=True):
            buffer[: len(values)] = values
        self._length.fill_(len(selection.points))

    def read(self) -> Selection:
        """Return the selection without copying it."""
        length = len(self)
        return Selection(*(buffer[:length] for buffer in self._buffers))
