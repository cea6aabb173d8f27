"""A loss or logit that is NaN or infinite: found without a host sync per step, reported with its step and points."""

import torch
from torch import Tensor

_MAX_PENDING = 256
_MAX_NAMED = 16


class FiniteCheck:
    """Remembers which rows of each step were finite, and raises for the first step where some were not.

    On the CPU a step is looked at once. On an accelerator looking would wait for it, so steps are kept there until
    `check` is called, at the latest after 256 of them.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[int, Tensor, Tensor]] = []

    def note(self, finite: Tensor, point_ids: Tensor, step: int) -> None:
        """Take a step down.

        Args:
            finite: [B] bool, whether loss and logits of the row are finite.
            point_ids: [B] int64.
            step: Updates done before it.
        """
        self._pending.append((step, finite, point_ids))
        if finite.device.type == "cpu" or len(self._pending) >= _MAX_PENDING:
            self.check()

    def check(self) -> None:
        """Look at the steps taken down since the last time.

        Raises:
            FloatingPointError: Naming the first step with a row that is not finite, and the row's point ids.
        """
        pending, self._pending = self._pending, []
        if not pending or bool(torch.stack([finite.all() for _, finite, _ in pending]).all()):
            return
        step, finite, point_ids = next(entry for entry in pending if not bool(entry[1].all()))
        bad = point_ids[~finite].tolist()
        named = ", ".join(map(str, bad[:_MAX_NAMED])) + (f", … ({len(bad)} points)" if len(bad) > _MAX_NAMED else "")
        raise FloatingPointError(
            f"The loss or a logit is NaN or infinite at step {step}, points {named}. Nothing of it was recorded as a value. "
            "Lower learning_rate, set warmup_epochs or max_grad_norm, or leave fp16 for bf16; a checkpoint before this step "
            "can be resumed."
        )
