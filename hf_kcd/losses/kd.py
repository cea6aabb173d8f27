"""Knowledge distillation on softened predictions (Hinton et al., 2015)."""

import torch
from torch.nn.functional import kl_div

# Stands for minus infinity: far below any log-probability that matters, while products and sums of it stay finite.
_LOWEST = -1e30


def kd_loss(student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float = 4.0) -> torch.Tensor:
    """Compute T^2 * KL(softmax(z_t / T) || softmax(z_s / T)), summed over classes and averaged over the batch.

    Args:
        student_logits: [B, C], any floating dtype; half precisions are computed in float32.
        teacher_logits: [B, C]; receives no gradient.
        temperature: T, above 0. T^2 keeps the size of the gradient when T changes.

    Returns:
        A scalar, float32 or float64; finite for finite logits.

    Raises:
        ValueError: When the two are not of one shape [B, C], or the temperature is not above 0.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2.
    """
    if student_logits.ndim != 2 or student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"Student logits have shape {list(student_logits.shape)} and teacher logits {list(teacher_logits.shape)}. "
            f"Both must be [B, C]: give student and teacher the same classes."
        )
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}. Give a number above 0; the papers use 4.")
    student = _log_softmax(student_logits, temperature)
    teacher = _log_softmax(teacher_logits.detach(), temperature)
    return kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def _log_softmax(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    # Without its largest entry a row cannot overflow upwards, and not downwards below what stands for minus infinity,
    # because 0 * -inf is not 0.
    below = wide - wide.amax(-1, keepdim=True).detach()
    return (below / temperature).log_softmax(-1).clamp_min(_LOWEST)
