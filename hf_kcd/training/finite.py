"""Finds a NaN or infinite loss or logit without a host sync per step, and reports its step and points."""

import torch
from torch import Tensor

_MAX_PENDING = 256
_MAX_NAMED = 16


class FiniteCheck:
    """Records which rows of each step were finite, and raises for the first step with a row that was not.

    On the CPU every step is checked at once. On an accelerator a check waits for the device, so steps are kept until
    `check` is called, at the latest after 256 steps.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[int, Tensor, Tensor]] = []

    def note(self, finite: Tensor, point_ids: Tensor, step: int) -> None:
        """Record which rows of a step were finite ([B] bool), their point ids [B], and the updates done before it."""
        self._pending.append((step, finite, point_ids))
        if finite.device.type == "cpu" or len(self._pending) >= _MAX_PENDING:
            self.check()

    def check(self) -> None:
        """Check the steps since the last check; a FloatingPointError names the first broken one and its points."""
        pending, self._pending = self._pending, []
        if not pending or bool(torch.stack([finite.all() for _, finite, _ in pending]).all()):
            return
        step, finite, point_ids = next(entry for entry in pending if not bool(entry[1].all()))
        bad = point_ids[~finite].tolist()
        named = ", ".join(map(str, bad[:_MAX_NAMED])) + (f", … ({len(bad)} points)" if len(bad) > _MAX_NAMED else "")
        raise FloatingPointError(
            f"The loss or a logit is NaN or infinite at step {step}, points {named}. These values were not recorded. "
            "Lower learning_rate, set warmup_epochs or max_grad_norm, or use bf16; you can resume from a checkpoint before."
        )
