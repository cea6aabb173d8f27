"""A selection: the points to train on, and what is mixed into each of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

Ids = torch.Tensor | np.ndarray | Sequence[int]
Shares = torch.Tensor | np.ndarray | Sequence[float]


class Selection(NamedTuple):
    """The points to train on. It travels from the summary to the mask, the data set and the batches.

    The image of a point becomes `(1 - perturbation) * image + perturbation * image of its partner` (KCD, Eq. 14).

    Args:
        points: [K] int64, ids of the points.
        partner, perturbation: [K] int64 and float32: the id mixed into each point, -1 for none, and its share in [0, 1].
    """

    points: torch.Tensor
    partner: torch.Tensor
    perturbation: torch.Tensor

    @classmethod
    def of(cls, points: Ids, partner: Ids | None = None, perturbation: Shares | None = None) -> "Selection":
        """Build a selection from tensors, arrays or lists [K]; without partners and shares no point is mixed."""
        if (partner is None) != (perturbation is None):
            raise ValueError("partner and perturbation belong together: give both, or neither.")
        ids = _as_ids("points", points)
        if partner is None:
            return cls(ids, torch.full_like(ids, -1), torch.zeros(len(ids)))
        return cls(ids, _as_ids("partner", partner), torch.as_tensor(perturbation).cpu().to(torch.float32))

    def check(self, num_points: int, name: str = "points") -> None:
        """Require that the selection fits a data set of `num_points`; `name` is what errors call `points`."""
        points, partner, perturbation = self
        check_tensor(name, points, torch.int64)
        check_tensor("partner", partner, torch.int64, len(points))
        check_tensor("perturbation", perturbation, torch.float32, len(points))
        refuse(name, points, (points < 0) | (points >= num_points), f"ids run from 0 to {num_points - 1}")
        ids, counts = points.unique(return_counts=True)
        if len(ids) < len(points):
            raise ValueError(f"{name} holds {int(ids[counts > 1][0])} more than once. Give every id once.")
        wrong = (partner < -1) | (partner >= num_points)
        refuse("partner", partner, wrong, f"ids run from 0 to {num_points - 1}, and -1 means none")
        refuse("partner", partner, partner == points, "a point cannot be its own partner")
        wrong = ~((perturbation >= 0) & (perturbation <= 1))
        refuse("perturbation", perturbation, wrong, "shares run from 0 (the point) to 1 (its partner)")
        wrong = (partner < 0) & (perturbation > 0)
        refuse("perturbation", perturbation, wrong, "a point without a partner has the share 0")

    @property
    def is_mixed(self) -> torch.Tensor:
        """[K] bool, whether a point has a partner."""
        return self.partner >= 0

    def mixed(self) -> "Selection":
        """Return the points that have a partner, in the same order."""
        rows = self.is_mixed
        return Selection(self.points[rows], self.partner[rows], self.perturbation[rows])

    def by_id(self) -> "Selection":
        """Return the same selection with its points in ascending order."""
        points, order = self.points.sort()
        return Selection(points, self.partner[order], self.perturbation[order])


def _as_ids(name: str, values: Ids) -> torch.Tensor:
    ids = torch.as_tensor(values).cpu()
    if ids.ndim != 1 or ids.dtype == torch.bool or (ids.is_floating_point() and ids.numel()):
        raise ValueError(f"{name} is {ids.dtype} of shape {list(ids.shape)}. Give a list of integer ids.")
    return ids.to(torch.int64)


def check_tensor(name: str, tensor: torch.Tensor, dtype: torch.dtype, length: int | None = None) -> None:
    """Require a vector of this type and length."""
    if tensor.dtype != dtype or tensor.ndim != 1 or (length is not None and len(tensor) != length):
        expected = f"[{'*' if length is None else length}] {dtype}"
        raise ValueError(f"{name} is {list(tensor.shape)} {tensor.dtype} instead of {expected}.")


def refuse(name: str, values: torch.Tensor, wrong: torch.Tensor, rule: str) -> None:
    """Refuse values that are marked as wrong, naming the first one and the rule that it breaks."""
    positions = wrong.nonzero()
    if len(positions):
        first = int(positions[0])
        found = f"{name} holds {values[first].item()} at position {first} ({len(positions)} such entries)"
        raise ValueError(f"{found}: {rule}.")
