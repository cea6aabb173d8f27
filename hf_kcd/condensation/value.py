"""What a point is worth to the student: the prediction entropy of Eq. 7, and other values by name."""

from collections.abc import Callable

import numpy as np
import torch

from ..errors import unknown_name

ValueFunction = Callable[[torch.Tensor, torch.Tensor | None, torch.Tensor], torch.Tensor]

_VALUES: dict[str, Callable[..., torch.Tensor]] = {}

# Stands for minus infinity: far below any log-probability that matters, while products and sums of it stay finite.
_LOWEST = -1e30


def register_value(name: str) -> Callable[[ValueFunction], ValueFunction]:
    """Register a value under a name, as a decorator.

    The function takes `(student_logits, teacher_logits, labels)`, [B, C], [B, C] or None without a teacher, and [B],
    and returns one number per point, [B], larger for a point that is worth more to the student. It gets no gradient.

    Example:
        ```python
        @register_value("margin")
        def margin(student_logits, teacher_logits, labels):
            top = student_logits.detach().softmax(-1).topk(2).values
            return 1 - (top[:, 0] - top[:, 1])
        ```

    Raises:
        ValueError: When the name is taken.
    """
    if name in _VALUES:
        raise ValueError(f"A value named {name!r} is registered already. Choose another name.")

    def register(function: ValueFunction) -> ValueFunction:
        _VALUES[name] = function
        return function

    return register


def get_value(name: str) -> Callable[..., torch.Tensor]:
    """Find a value by its name.

    Args:
        name: One of `available_values()`.

    Returns:
        A function `(student_logits, teacher_logits, labels) -> [B]`, recorded with every batch; for `"random"` it is
        `random_value`, which no batch decides and which is drawn at each selection instead.

    Raises:
        ValueError: When no value has this name.
    """
    if name not in _VALUES:
        raise unknown_name("value", name, _VALUES)
    return _VALUES[name]


def available_values() -> list[str]:
    """List the names of all values, sorted."""
    return sorted(_VALUES)


@torch.no_grad()
def prediction_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Compute the entropy of a prediction at temperature 1, in nats.

    Args:
        logits: [B, C], any floating dtype; half precisions are computed in float32.

    Returns:
        [B], float32 or float64, in [0, log C] and without a gradient; finite for finite logits, NaN for all others.

    Raises:
        ValueError: When the logits are not [B, C].

    Source: KCD, Eq. 7.
    """
    log_probabilities = _log_softmax(logits)
    return -(log_probabilities.exp() * log_probabilities).sum(-1)


@register_value("entropy")
def _entropy(student_logits: torch.Tensor, teacher_logits: torch.Tensor | None, labels: torch.Tensor) -> torch.Tensor:
    """The student's prediction entropy (Eq. 7)."""
    return prediction_entropy(student_logits)


@register_value("cross_entropy")
@torch.no_grad()
def _cross_entropy(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor | None, labels: torch.Tensor
) -> torch.Tensor:
    """The student's cross-entropy with the label."""
    return -_log_softmax(student_logits).gather(-1, labels[:, None])[:, 0]


@register_value("kd_divergence")
@torch.no_grad()
def _kd_divergence(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor | None, labels: torch.Tensor
) -> torch.Tensor:
    """KL(teacher || student) at temperature 1."""
    teacher = _log_softmax(_required("kd_divergence", teacher_logits))
    return (teacher.exp() * (teacher - _log_softmax(student_logits))).sum(-1).clamp_min(0)


@register_value("disagreement")
@torch.no_grad()
def _disagreement(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor | None, labels: torch.Tensor
) -> torch.Tensor:
    """The total variation distance between the two predictions: half the sum of |p_S - p_T|, from 0 to 1."""
    teacher = _log_softmax(_required("disagreement", teacher_logits)).exp()
    return (_log_softmax(student_logits).exp() - teacher).abs().sum(-1).div(2).clamp_max(1)


@register_value("random")
def random_value(num_points: int, seed: int, epoch: int) -> torch.Tensor:
    """Draw a value for every point, the baseline that an estimated value has to beat.

    Args:
        num_points: Number of points, N.
        seed: Seed of the training, not negative.
        epoch: The epoch that the selection precedes: every selection draws anew.

    Returns:
        [N] float64 in [0, 1) on the CPU, the same on every machine; the global generators are not touched.

    Source: KCD, Table 4, "OGVE w/ random".
    """
    return torch.from_numpy(np.random.Generator(np.random.PCG64([seed, epoch])).random(num_points))


def _log_softmax(logits: torch.Tensor) -> torch.Tensor:
    if logits.ndim != 2:
        raise ValueError(f"Logits have shape {list(logits.shape)}. Give [B, C], a row of class scores per point.")
    wide = logits if logits.dtype == torch.float64 else logits.float()
    # The gap between two finite logits can overflow, and 0 * -inf is not 0.
    log_probabilities = wide.log_softmax(-1).clamp_min(_LOWEST)
    # A logit of -inf would pass for a class that is simply impossible, and the row for a confident one.
    return log_probabilities.masked_fill(~wide.isfinite().all(-1, keepdim=True), torch.nan)


def _required(value: str, teacher_logits: torch.Tensor | None) -> torch.Tensor:
    if teacher_logits is None:
        raise ValueError(
            f"The value {value!r} compares with a teacher, and there is none. Use 'entropy', or a teacher."
        )
    return teacher_logits
