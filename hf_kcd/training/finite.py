"""Finds a NaN or infinite loss or logit without a host sync per step, and reports its step and points."""

import torch
from torch import Tensor

_MAX_PENDING = 256
_MAX_NAMED = 16
_ADVICE = "Lower learning_rate, set warmup_epochs or max_grad_norm, or use bf16 instead of fp16"


class FiniteCheck:
    """Records what was finite in each step, and raises for the first step in which something was not.

    On the CPU every step is checked at once. On an accelerator a check waits for the device, so steps are kept until
    `check` is called, at the latest after 256 steps.

    Args:
        phase: What the steps are counted in, after "step 3"; the training without it.
        advice: What to do about a loss that is not finite.
    """

    def __init__(self, phase: str = "", advice: str = _ADVICE) -> None:
        self._phase, self._advice = phase, advice
        self._pending: list[tuple[int, Tensor, Tensor, Tensor, Tensor]] = []

    def note(
        self,
        step: int,
        point_ids: Tensor,
        loss: Tensor,
        student_logits: Tensor | None = None,
        teacher_logits: Tensor | None = None,
    ) -> Tensor:
        """Record a step: the updates before it, its loss, its rows' point ids [B], and logits [B, C] where there are some.

        Returns the rows whose values count, [B] bool: those of finite logits, under a finite loss.
        """
        student, teacher = (_finite_rows(logits, point_ids) for logits in (student_logits, teacher_logits))
        fine = loss.detach().isfinite()
        self._pending.append((step, point_ids, fine, student, teacher))
        if fine.device.type == "cpu" or len(self._pending) >= _MAX_PENDING:
            self.check()
        return student & teacher & fine

    def check(self) -> None:
        """Check the steps since the last check; a FloatingPointError names the first broken one and its points."""
        pending, self._pending = self._pending, []
        if not pending or bool(torch.stack([(fine & s & t).all() for _, _, fine, s, t in pending]).all()):
            return
        step, point_ids, _, student, teacher = next(
            one for one in pending if not bool((one[2] & one[3] & one[4]).all())
        )
        rows = student & teacher
        # A loss over the batch is broken with one row: the others are not to blame.
        bad = point_ids if bool(rows.all()) else point_ids[~rows]
        named = ", ".join(map(str, bad[:_MAX_NAMED].tolist()))
        named += f", … ({len(bad)} points)" if len(bad) > _MAX_NAMED else ""
        what, advice = "The loss or a logit is", self._advice
        if not bool(teacher.all()):
            alone = bool(student.all())
            what = "A logit of the teacher is" if alone else "Logits of student and teacher are"
            advice = "Check the teacher's weights" if alone else "Check the images of these points"
        raise FloatingPointError(
            f"{what} NaN or infinite at step {step}{self._phase}, points {named}. Nothing of it was recorded. {advice}, and "
            "train anew: a resumed run would repeat the step."
        )


def _finite_rows(logits: Tensor | None, point_ids: Tensor) -> Tensor:
    if logits is None:
        return torch.ones_like(point_ids, dtype=torch.bool)
    return logits.detach().isfinite().all(1)
