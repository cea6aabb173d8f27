"""The Value-Adaptive Knowledge Summary (section 3.4): the points that stay, and their partners."""

from dataclasses import dataclass

import torch

from ..errors import unknown_name
from .selection import Selection

AUGMENTATIONS = ("adaptive", "fixed", "none")
PARTNERS = ("discarded", "newly_discarded")


@dataclass(frozen=True)
class KnowledgeSummary:
    """The condensed knowledge: a partition of all points, and the perturbation of the borderline ones.

    Args:
        kept, discarded: [K] and [N - K] int64 ids in rank order, K_1 and K_0; `kept` is `high`, then `low`.
        high, low: [K - L] and [L], the most valuable points, K_1H, and the borderline points, K_1L, which are mixed.
        partner, perturbation: [K] aligned with `kept`: the id mixed in (-1 for none), and its share, epsilon.
    """

    kept: torch.Tensor
    high: torch.Tensor
    low: torch.Tensor
    discarded: torch.Tensor
    partner: torch.Tensor
    perturbation: torch.Tensor

    @property
    def selection(self) -> Selection:
        """What is trained on: the kept points, each with its partner and perturbation, on the CPU."""
        return Selection(self.kept.cpu(), self.partner.cpu(), self.perturbation.cpu())


def summarize_knowledge(
    order: torch.Tensor,
    num_kept: int,
    max_perturbation: float = 0.3,
    augmentation: str = "adaptive",
    partners: str = "discarded",
    previous_num_kept: int | None = None,
) -> KnowledgeSummary:
    """Keep the most valuable points, and pair the least valuable of them with the best of the rest.

    Args:
        order: [N] int64, all ids from the most valuable to the least (`rank_points`).
        num_kept: Number of points to keep, K, from 1 to N.
        max_perturbation: The largest share of a partner in a mixed point, eps_m in [0, 1].
        augmentation: `"adaptive"` mixes the k-th of the L borderline points with eps_m * k / L, k from 0 (Eq. 15);
            `"fixed"` mixes all of them with eps_m (Table 4, "w/ KA"); `"none"` does not mix.
        partners: `"discarded"` makes as many kept points borderline as points are discarded, or all kept ones if there
            are fewer (section 3.4); `"newly_discarded"` makes as many borderline as left the set since the last
            selection (released code). The k-th discarded point is the partner of the k-th borderline point (Eq. 14).
        previous_num_kept: Number of points kept so far, for `"newly_discarded"`.

    Returns:
        The summary, on the device of `order`.

    Raises:
        ValueError: When `order` is not a permutation, or another value is out of its range.
    """
    num_points, ids = order.numel(), torch.arange(order.numel(), device=order.device)
    if not num_points or order.dtype != torch.int64 or not torch.equal(order.sort().values, ids):
        raise ValueError("order is not a permutation of the ids 0 to N - 1. Give what rank_points returns.")
    if not 1 <= num_kept <= num_points:
        raise ValueError(f"num_kept is {num_kept}. Keep between 1 and all {num_points} points.")
    if not 0 <= max_perturbation <= 1:
        raise ValueError(f"max_perturbation is {max_perturbation}. Give a share of the image, from 0 to 1.")
    for name, given, valid in (("augmentation", augmentation, AUGMENTATIONS), ("partners", partners, PARTNERS)):
        if given not in valid:
            raise unknown_name(name, given, valid)
    before = num_points if partners == "discarded" else previous_num_kept or 0
    if not num_kept <= before <= num_points:
        raise ValueError(
            f"previous_num_kept is {previous_num_kept}. With partners='newly_discarded' give the number of points kept "
            f"before, from num_kept={num_kept} to {num_points}."
        )

    kept, discarded = order[:num_kept], order[num_kept:]
    num_low = min(num_kept, before - num_kept)
    high, low = kept.split([num_kept - num_low, num_low])
    partner = torch.full_like(kept, -1)
    perturbation = torch.zeros(num_kept, dtype=torch.float32, device=order.device)
    if augmentation != "none" and num_low:
        partner[-num_low:] = discarded[:num_low]
        rank = torch.arange(num_low, dtype=torch.float64, device=order.device)
        perturbation[-num_low:] = max_perturbation * (rank / num_low if augmentation == "adaptive" else 1.0)
    return KnowledgeSummary(kept, high, low, discarded, partner, perturbation)
