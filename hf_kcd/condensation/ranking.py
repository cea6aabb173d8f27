"""The ranking of all points by their score (Eq. 13; Algorithm 1, line 9): the most valuable first."""

from collections.abc import Sequence

import numpy as np
import torch


def rank_points(scores: torch.Tensor | np.ndarray | Sequence[float]) -> torch.Tensor:
    """Rank the points by their score.

    Args:
        scores: [N], higher for more valuable points; infinities are allowed.

    Returns:
        [N] int64, the ids from the most valuable point to the least; points of equal score by ascending id, so that
        every process and every run ranks alike. Position r holds the point of rank r in Eq. 8.

    Raises:
        ValueError: When the scores are not [N], or one is NaN.
    """
    scores = torch.as_tensor(scores, dtype=torch.float64)
    if scores.ndim != 1:
        raise ValueError(f"Scores have shape {list(scores.shape)}. Give [N], one number per point.")
    undefined = scores.isnan().nonzero()[:, 0]
    if len(undefined):
        ids = ", ".join(map(str, undefined[:5].tolist())) + ", …" * (len(undefined) > 5)
        raise ValueError(f"{len(undefined)} points have a score of NaN (ids {ids}). Record finite values only.")
    return torch.argsort(scores, descending=True, stable=True)


def keep_of_each_class(order: torch.Tensor, num_kept: int, labels: torch.Tensor, min_per_class: int) -> torch.Tensor:
    """Reorder a ranking so that its first points include the most valuable ones of every class.

    Args:
        order: [N] int64, all ids from the most valuable to the least (`rank_points`).
        num_kept: Number of points to keep, K.
        labels: [N] int64, the class of every point.
        min_per_class: Points of each class among the K; all points of a class that has fewer.

    Returns:
        [N] int64: the K kept points, then the others, both in their order in the ranking.

    Raises:
        ValueError: When the classes need more than K points.
    """
    classes = labels[order]
    by_class, sizes = classes.argsort(stable=True), classes.bincount()
    rank_in_class = torch.empty_like(order)
    rank_in_class[by_class] = torch.arange(len(order)) - (sizes.cumsum(0) - sizes)[classes[by_class]]
    reserved = rank_in_class < min_per_class
    num_free = num_kept - int(reserved.sum())
    if num_free < 0:
        raise ValueError(
            f"min_per_class={min_per_class} needs {num_kept - num_free} points of {int((sizes > 0).sum())} classes, but a stage "
            f"keeps {num_kept}: lower min_per_class, or raise final_ratio."
        )
    kept = reserved | ((~reserved).cumsum(0) <= num_free)
    return torch.cat([order[kept], order[~kept]])


def random_scores(num_points: int, seed: int, epoch: int) -> torch.Tensor:
    """Draw a score for every point: the baseline that an estimated value has to beat.

    Args:
        num_points, seed: Number of points, N, and seed of the training, not negative.
        epoch: The epoch after the selection: every selection draws anew.

    Returns:
        [N] float64 in [0, 1) on the CPU, the same on every machine; the global generators are not touched.

    Source: KCD, Table 4, "OGVE w/ random".
    """
    return torch.from_numpy(np.random.Generator(np.random.PCG64([seed, epoch])).random(num_points))
