"""Online Global Value Estimation (section 3.3): the running value of each point, and how many epochs recorded it."""

from collections.abc import Mapping

import torch
import torch.distributed

_NOT_SEEN = -torch.inf


class KnowledgeRecord:
    """Record values batch by batch, fold them in epoch by epoch, and score every point.

    Within an epoch the largest value of a point counts. So a repeated point (samplers fill the last round with the first
    points) counts once, and the order of the batches and the process that saw a point do not matter.

    Args:
        num_points, device: Number of points, N, and where the record lives; the device of the logits avoids copies.

    Attributes:
        value: [N] float64, the mean value over the recorded epochs (Eq. 12), 0 for a point never seen.
        frequency: [N] int64, F, the number of epochs that recorded the point.

    Source: KCD, section 3.3, Eq. 12 and 13; Algorithm 1, line 7.
    """

    def __init__(self, num_points: int, device: torch.device | str | None = None) -> None:
        if num_points < 1:
            raise ValueError(f"num_points is {num_points}. A record needs at least one point.")
        self.num_points = num_points
        self.value = torch.zeros(num_points, dtype=torch.float64, device=device)
        self.frequency = torch.zeros(num_points, dtype=torch.int64, device=device)
        self._open = torch.full((num_points,), _NOT_SEEN, dtype=torch.float64, device=device)
        self._rejected = torch.zeros((), dtype=torch.int64, device=device)

    @property
    def is_open(self) -> bool:
        """Whether the current epoch has recorded anything; waits for the device."""
        return bool((self._open > _NOT_SEEN).any())

    @property
    def num_rejected(self) -> int:
        """Number of values that were NaN or infinite and not recorded; waits for the device."""
        return int(self._rejected)

    def observe(self, indices: torch.Tensor, values: torch.Tensor) -> None:
        """Record the values of a batch for the current epoch, without waiting for the device.

        Args:
            indices: [B] int64, the points' ids in the whole data set.
            values: [B], any floating dtype; NaN and infinities count as not seen.

        Raises:
            ValueError: When the two have different lengths.
            IndexError: When an id is out of range; checked on the CPU only, where the check costs no wait.
        """
        if indices.ndim != 1 or indices.shape != values.shape:
            shapes = f"indices have shape {list(indices.shape)} and values {list(values.shape)}"
            raise ValueError(f"{shapes}. Give one value per id, [B].")
        if indices.device.type == "cpu":
            outside = indices[(indices < 0) | (indices >= self.num_points)]
            if len(outside):
                raise IndexError(f"Point id {outside[0]} is not among the {self.num_points} points of this record.")
        values = values.detach().to(self._open)
        finite = values.isfinite()
        self._rejected += (~finite).sum()
        values = torch.where(finite, values, _NOT_SEEN)
        self._open.scatter_reduce_(0, indices.to(self._open.device), values, reduce="amax")

    def merge(self, *others: "KnowledgeRecord") -> None:
        """Merge the current epoch's values of other records; doing it twice changes nothing.

        Args:
            others: Records of the same points. Without any, all processes merge theirs by one all-reduce: every process
                must call it. A single process does nothing.

        Raises:
            ValueError: When another record has another number of points.
        """
        for other in others:
            if other.num_points != self.num_points:
                raise ValueError(f"A record of {other.num_points} points cannot join one of {self.num_points} points.")
            self._open = torch.maximum(self._open, other._open.to(self._open.device))
        distributed = torch.distributed
        if not others and distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(self._open, op=distributed.ReduceOp.MAX)

    def close_epoch(self, online: bool = True) -> None:
        """Add the epoch's values: F <- F + 1 and V <- (F - 1) / F * V + v / F for every point it has seen.

        Args:
            online: Keep the running mean of Eq. 12; otherwise only the latest value (Table 4, "w/o OVR").
        """
        seen = self._open > _NOT_SEEN
        self.frequency += seen
        count = self.frequency.clamp_min(1)
        folded = (count - 1) / count.double() * self.value + self._open / count if online else self._open
        self.value = torch.where(seen, folded, self.value)
        self._open.fill_(_NOT_SEEN)

    def scores(self, cost_exponent: float = 0.03) -> torch.Tensor:
        """Weigh the value of each point with the cost spent on it: V * F^alpha.

        Args:
            cost_exponent: alpha of Eq. 13; 0 ignores the cost (Table 4, "w/o CAR").

        Returns:
            [N] float64, higher for more valuable points, 0 for a point never seen.
        """
        return self.value * self.frequency.clamp_min(1).double() ** cost_exponent

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Copy everything a resumed run needs, including the current epoch."""
        return {"value": self.value.clone(), "frequency": self.frequency.clone(), "open": self._open.clone()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore what `state_dict` returned; a ValueError says why a state does not fit."""
        current = {"value": self.value, "frequency": self.frequency, "open": self._open}
        if set(state) != set(current):
            raise ValueError(f"The state of a record holds {sorted(current)}, this one {sorted(state)}.")
        for name, tensor in current.items():
            given = state[name]
            if given.shape != tensor.shape:
                shapes = f"shape {list(given.shape)} instead of [{self.num_points}]"
                raise ValueError(f"{name!r} has {shapes}: the state belongs to another data set.")
            if given.dtype != tensor.dtype:
                raise ValueError(f"{name!r} is {given.dtype} instead of {tensor.dtype}: the state was converted.")
        value, frequency, opened = state["value"], state["frequency"], state["open"]
        if not value.isfinite().all() or (frequency < 0).any() or not (opened < torch.inf).all():
            raise ValueError(
                "The state holds NaN, infinities or negative frequencies: it is corrupt, take an older one."
            )
        self.value, self.frequency, self._open = (
            tensor.to(self.value.device, copy=True) for tensor in (value, frequency, opened)
        )
