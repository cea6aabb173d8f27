"""Variational information distillation: the teacher's feature under a Gaussian that the student predicts (Ahn et al., 2019)."""

from torch import Tensor
from torch.nn import functional as F

from .common import match_maps

# Keeps the likelihood finite if a channel is predicted perfectly.
_LEAST_VARIANCE = 1e-5


def vid_loss(predicted_mean: Tensor, log_scale: Tensor, teacher_feature: Tensor) -> Tensor:
    """Compute the mean of ((mu - f_t)^2 / s^2 + log s^2) / 2, with s^2 = softplus(a) + 1e-5 per channel.

    Args:
        predicted_mean: mu, [B, C, H, W] or [B, C], the regressor's output.
        log_scale: a, [C], trained with the regressor.
        teacher_feature: f_t, [B, C, H', W'] or [B, C]. The larger map is average-pooled.

    Returns:
        A scalar: the negative log-likelihood of an entry, without its constant. It may be negative.

    Source: Ahn et al., "Variational Information Distillation for Knowledge Transfer", CVPR 2019, and its code's variance.
    """
    mean, feature = match_maps(predicted_mean, teacher_feature, "feature", same_channels=True)
    if log_scale.shape != (mean.shape[1],):
        raise ValueError(
            f"log_scale has shape {list(log_scale.shape)}. Give one per channel of the feature {list(feature.shape)}."
        )
    variance = F.softplus(log_scale.to(mean.dtype))[:, None, None] + _LEAST_VARIANCE
    return ((mean - feature).square() / variance + variance.log()).mean() / 2
