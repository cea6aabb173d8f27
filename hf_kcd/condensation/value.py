"""What a point is worth to the student: the prediction entropy of Eq. 7, and other values by name."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import unknown_name
from ..losses.common import soften

ValueFunction = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]

# The baseline that selects at random (Table 4, "OGVE w/ random"): no value decides.
RANDOM = "random"

_VALUES: dict[str, ValueFunction] = {}


def register_value(name: str) -> Callable[[ValueFunction], ValueFunction]:
    """Register a value under a name, as a decorator.

    The function takes `(student_logits, teacher_logits, labels)`: [B, C], [B, C] or None without a teacher, and [B].
    It returns one number per point, [B], larger for a point that is worth more to the student. Logits carry no
    gradient.

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
    if name in available_values():
        raise ValueError(f"A value named {name!r} is registered already. Choose another name.")

    def register(function: ValueFunction) -> ValueFunction:
        _VALUES[name] = function
        return function

    return register


def get_value(name: str) -> ValueFunction:
    """Look up a value by its name; for "random" it is the entropy, which the record shows and the ranking ignores."""
    if name not in available_values():
        raise unknown_name("value", name, available_values())
    return _VALUES["entropy" if name == RANDOM else name]


def available_values() -> list[str]:
    """List the names of all values, sorted."""
    return sorted([*_VALUES, RANDOM])


@torch.no_grad()
def prediction_entropy(logits: Tensor) -> Tensor:
    """Compute the entropy of a prediction at temperature 1, in nats.

    Args:
        logits: [B, C], any floating dtype; half precisions are computed in float32.

    Returns:
        [B], float32 or float64, in [0, log C] and without a gradient; finite for finite logits, NaN otherwise.

    Raises:
        ValueError: When the logits are not [B, C].

    Source: KCD, Eq. 7.
    """
    log_probabilities = _log_softmax(logits)
    return -(log_probabilities.exp() * log_probabilities).sum(-1)


@register_value("entropy")
def _entropy(student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor | None) -> Tensor:
    """The student's prediction entropy (Eq. 7)."""
    return prediction_entropy(student_logits)


@register_value("cross_entropy")
@torch.no_grad()
def _cross_entropy(student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor | None) -> Tensor:
    """The student's cross-entropy with the label."""
    labels = _given("cross_entropy", "labels", labels)
    return -_log_softmax(student_logits).gather(-1, labels[:, None])[:, 0]


@register_value("kd_divergence")
@torch.no_grad()
def _kd_divergence(student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor | None) -> Tensor:
    """KL(teacher || student) at temperature 1."""
    teacher = _log_softmax(_given("kd_divergence", "a teacher's logits", teacher_logits))
    return (teacher.exp() * (teacher - _log_softmax(student_logits))).sum(-1).clamp_min(0)


@register_value("disagreement")
@torch.no_grad()
def _disagreement(student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor | None) -> Tensor:
    """The total variation distance between the two predictions: half the sum of |p_S - p_T|, from 0 to 1."""
    teacher = _log_softmax(_given("disagreement", "a teacher's logits", teacher_logits)).exp()
    return (_log_softmax(student_logits).exp() - teacher).abs().sum(-1).div(2).clamp_max(1)


def _log_softmax(logits: Tensor) -> Tensor:
    if logits.ndim != 2:
        raise ValueError(f"Logits have shape {list(logits.shape)}. Give [B, C], a row of class scores per point.")
    # A logit of -inf would look like an impossible class, and its row like a confident prediction.
    return soften(logits, 1.0).masked_fill(~logits.isfinite().all(-1, keepdim=True), torch.nan)


def _given(value: str, what: str, tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise ValueError(f"The value {value!r} needs {what}: pass them, or use the value 'entropy'.")
    return tensor
