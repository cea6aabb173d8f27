"""Masks in words and numbers: one described, several compared."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import torch

from ..artifacts.identity import label_digest
from ..condensation import KnowledgeMask
from .tables import NOTHING, format_table


def compare_masks(masks: Mapping[str, KnowledgeMask]) -> np.ndarray:
    """Count, for every two masks, the points that one keeps and the other discards (Fig. 3c): [M, M] int64, symmetric.

    Raises:
        ValueError: When there are fewer than two masks, or two are about different data sets.
    """
    if len(masks) < 2:
        raise ValueError(f"There are {len(masks)} masks to compare: give two or more.")
    distances = np.zeros((len(masks), len(masks)), dtype=np.int64)
    for (column, (other_name, other)), (row, (name, mask)) in combinations(enumerate(masks.items()), 2):
        try:
            distances[row, column] = distances[column, row] = mask.hamming_distance(other)
        except ValueError as error:
            raise ValueError(f"{other_name} and {name} cannot be compared. {error}") from error
    return distances


def chance_distance(mask: KnowledgeMask, other: KnowledgeMask) -> float:
    """Return the mean Hamming distance of two masks of these sizes whose points are drawn at random."""
    kept, other_kept, num_points = len(mask.kept), len(other.kept), mask.num_points
    return (kept * (num_points - other_kept) + other_kept * (num_points - kept)) / num_points


def mask_table(masks: Mapping[str, KnowledgeMask], *, markdown: bool = False) -> str:
    """Write the distances of `compare_masks` as a table, each with that of random masks in brackets."""
    distances, rows = compare_masks(masks), []
    for row, (name, mask) in enumerate(masks.items()):
        cells = [
            NOTHING if row == column else f"{distances[row, column]:,} ({chance_distance(mask, other):,.0f})"
            for column, other in enumerate(masks.values())
        ]
        rows.append([name, f"{len(mask.kept):,} of {mask.num_points:,}", *cells])
    return format_table(["mask", "kept", *masks], rows, markdown)


def describe_mask(mask: KnowledgeMask, labels: Sequence[int] | np.ndarray | torch.Tensor | None = None) -> str:
    """Describe a mask in a few lines of text: its origin, what it keeps, and the points' values.

    With `labels`, [N] class ids of its data set, also the counts per class; other labels are a ValueError.
    """
    facts = mask.description()
    num_points, num_kept, names = facts["num_points"], facts["num_kept"], facts["dataset"]["class_names"]
    mixed = "none"
    if facts["cumulative_mixing"]:
        mixed = f"{facts['num_mixed']:,} of the kept, stage after stage into the images for good"
    elif facts["shares"]:
        low, high = facts["shares"]
        mixed = f"{facts['num_mixed']:,} of the kept, with {low:.2f} to {high:.2f} of a partner"
    low, high = facts["frequency"]
    some_names = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    lines = [
        f"Knowledge mask of {num_points:,} points in {len(names)} classes ({some_names})",
        f"  from       {_origin(facts['provenance'])}",
        f"  stage      {facts['stage']}",
        f"  kept       {num_kept:,} ({num_kept / num_points:.1%}), discarded {num_points - num_kept:,}",
        f"  classes    {_classes(facts['classes'])}",
        f"  mixed      {mixed}",
        f"  frequency  {low} to {high} epochs recorded per point",
        "  value               5 %      25 %    median      75 %      95 %",
    ]
    quantiles = facts["quantiles"].items()
    lines += [f"    {name:<10}" + "".join(f"{value:>10.4g}" for value in values) for name, values in quantiles]
    if labels is not None:
        lines.append(_kept_per_class(mask, np.asarray(labels)))
    return "\n".join(lines)


def _origin(provenance: Mapping[str, object]) -> str:
    student, teacher, method = (provenance.get(name) for name in ("student", "teacher", "method"))
    if student is None:
        return "unknown"
    seed = f", seed {provenance['seed']}" if "seed" in provenance else ""
    return (f"{teacher} teaching " if teacher is not None else "") + f"{student} under {method}{seed}"


def _classes(counts: tuple[int, int] | None) -> str:
    return "unknown" if counts is None else f"{counts[0]:,} of {counts[1]:,} have a kept point"


def _kept_per_class(mask: KnowledgeMask, labels: np.ndarray) -> str:
    if label_digest(labels) != mask.dataset.labels:
        advice = "Load the split that the mask was made on, in its original order."
        raise ValueError(f"The {len(labels)} labels do not match the mask's data set. {advice}")
    names = mask.dataset.class_names
    totals, counts = (np.bincount(part, minlength=len(names)) for part in (labels, labels[mask.kept.numpy()]))
    present = np.flatnonzero(totals)
    ranked = present[np.argsort(counts[present] / totals[present], kind="stable")]

    def some(classes: np.ndarray) -> str:
        return ", ".join(f"{names[each]} {counts[each]}/{totals[each]}" for each in classes)

    return f"  kept per class, fewest: {some(ranked[:3])}\n                   most: {some(ranked[::-1][:3])}"
