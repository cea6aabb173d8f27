"""Knowledge distillation on softened predictions (Hinton et al., 2015)."""

from torch import Tensor

from .common import check_logits, check_temperature, divergence, soften


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0) -> Tensor:
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
    check_logits(student_logits, teacher_logits)
    check_temperature(temperature)
    return divergence(soften(student_logits, temperature), soften(teacher_logits.detach(), temperature), temperature)
