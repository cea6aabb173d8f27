"""Deep mutual learning: peers teach each other (Zhang et al., 2018)."""

from collections.abc import Sequence

from torch import Tensor

from .kd import kd_loss


def dml_loss(logits: Tensor, peer_logits: Sequence[Tensor], temperature: float = 1.0) -> Tensor:
    """Compute the mean over the other peers j of T^2 KL(p_j || p), averaged over the batch; CE is not included.

    Args:
        logits: [B, C], of the peer that learns.
        peer_logits: For each other peer [B, C]; receive no gradient.
        temperature: T, above 0; the paper's is 1.

    Returns:
        A scalar, float32 or float64.

    Raises:
        ValueError: When there is no other peer, logits are not of one shape, or the temperature is not above 0.

    Source: Zhang et al., "Deep Mutual Learning", CVPR 2018; the mean of the case of several peers.
    """
    if len(peer_logits) == 0:
        raise ValueError("No logits of a peer were given. Mutual learning needs at least one other network.")
    return sum(kd_loss(logits, peer, temperature) for peer in peer_logits) / len(peer_logits)
