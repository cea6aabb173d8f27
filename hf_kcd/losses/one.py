"""On-the-fly native ensemble: branches learn from their gated ensemble (Lan et al., 2018)."""

from collections.abc import Sequence

from torch import Tensor

from .kd import cross_entropy_loss, kd_loss


def one_loss(
    branch_logits: Sequence[Tensor],
    ensemble_logits: Tensor,
    labels: Tensor,
    temperature: float = 3.0,
    ramp: float = 1.0,
) -> Tensor:
    """Compute the cross-entropies of branches and ensemble plus `ramp` times the branches' T^2 KL from the ensemble.

    Args:
        branch_logits: [B, C] for each branch, at least one.
        ensemble_logits: [B, C]. Its cross-entropy trains the gate; as the branches' teacher it receives no gradient.
        labels: [B] int64.
        temperature: T, above 0; 3 in the paper.
        ramp: Weight of the divergences; the authors raise it as exp(-5 (1 - epoch / 80)^2).

    Returns:
        A scalar: batch means, added.

    Source: Lan et al., "Knowledge Distillation by On-the-Fly Native Ensemble", NeurIPS 2018. The authors' code adds 1e-7 to
    the target's probabilities to avoid log 0, which cannot occur here.
    """
    if len(branch_logits) == 0:
        raise ValueError("No logits of a branch are given: give at least one.")
    of_branches = sum(cross_entropy_loss(branch, labels) for branch in branch_logits)
    divergences = sum(kd_loss(branch, ensemble_logits, temperature) for branch in branch_logits)
    return cross_entropy_loss(ensemble_logits, labels) + of_branches + ramp * divergences
