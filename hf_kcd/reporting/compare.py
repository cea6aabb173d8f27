"""Masks against masks and results against results, as tables of plain text or Markdown."""

import hashlib
import statistics
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from ..artifacts.results import Results
from ..condensation import KnowledgeMask

NOTHING = "–"


def compare_masks(masks: Mapping[str, KnowledgeMask]) -> np.ndarray:
    """Count, for every two masks, the points that one keeps and the other discards (Fig. 3c).

    Args:
        masks: Masks of one data set, by name.

    Returns:
        [M, M] int64, symmetric, 0 on the diagonal; in the order of `masks`.

    Raises:
        ValueError: When there are fewer than two masks, or two are about different data sets.
    """
    if len(masks) < 2:
        raise ValueError(f"There are {len(masks)} masks to compare: give two or more.")
    distances = np.zeros((len(masks), len(masks)), dtype=np.int64)
    for row, (name, mask) in enumerate(masks.items()):
        for column, (other_name, other) in enumerate(list(masks.items())[:row]):
            try:
                distances[row, column] = distances[column, row] = mask.hamming_distance(other)
            except ValueError as error:
                raise ValueError(f"{other_name} and {name} cannot be compared. {error}") from error
    return distances


def chance_distance(mask: KnowledgeMask, other: KnowledgeMask) -> float:
    """Give the Hamming distance that two masks of these sizes have on average when their points are drawn at random."""
    kept, other_kept, num_points = len(mask.kept), len(other.kept), mask.num_points
    return (kept * (num_points - other_kept) + other_kept * (num_points - kept)) / num_points


def mask_table(masks: Mapping[str, KnowledgeMask], *, markdown: bool = False) -> str:
    """Write the Hamming distances of masks as a table, each with what chance would give in brackets.

    Args:
        masks: Masks of one data set, by name.
        markdown: Write a Markdown table instead of aligned text.

    Raises:
        ValueError: As `compare_masks`.
    """
    distances = compare_masks(masks)
    rows = []
    for row, (name, mask) in enumerate(masks.items()):
        cells = [
            NOTHING if row == column else f"{distances[row, column]:,} ({chance_distance(mask, other):,.0f})"
            for column, other in enumerate(masks.values())
        ]
        rows.append([name, f"{len(mask.kept):,} of {mask.num_points:,}", *cells])
    return format_table(["mask", "kept", *masks], rows, markdown)


def results_table(groups: Mapping[str, Sequence[Results]], *, markdown: bool = False) -> str:
    """Write one row per experiment: top-1 over its seeds, what it cost, how long it took.

    Top-1 is the mean ± sample standard deviation over the runs of a group: after the last epoch, and at the best epoch,
    which was chosen on the very data it is measured on. C is relative to training on all points in every epoch.

    Args:
        groups: The runs of every experiment, by name (`group_results`).
        markdown: Write a Markdown table instead of aligned text.

    Raises:
        ValueError: When there is nothing to show.
    """
    if not groups or not all(groups.values()):
        raise ValueError("A table needs at least one run for every name: train one, or leave the name out.")
    header = ["run", "top-1 % (last)", "top-1 % (best)", "C planned %", "C paid %", "seconds", "seeds"]
    rows = [
        [
            name,
            _spread(runs, lambda run: run["accuracy"] and run["accuracy"]["last"]["top1"]),
            _spread(runs, lambda run: run["accuracy"] and run["accuracy"]["best"]["top1"]),
            _average(100 * run["cost"]["planned"] for run in runs),
            _average(100 * run["cost"]["paid"] for run in runs),
            _average(run["seconds"]["training"] for run in runs),
            _seeds(runs),
        ]
        for name, runs in groups.items()
    ]
    return format_table(header, rows, markdown)


def describe_mask(mask: KnowledgeMask, labels: Sequence[int] | np.ndarray | torch.Tensor | None = None) -> str:
    """Describe a mask in a few lines of text: where it is from, what it keeps, what the points are worth.

    Args:
        mask: The mask.
        labels: [N] class ids of the data set, for the counts per class, which a mask alone does not know.

    Raises:
        ValueError: When the labels are not those of the mask's data set.
    """
    num_points, num_kept = mask.num_points, len(mask.kept)
    kept = mask.kept_mask
    mixed = mask.partner >= 0
    lines = [
        f"Knowledge mask of {num_points:,} points in {len(mask.dataset.class_names)} classes "
        f"({_shortened(mask.dataset.class_names)})",
        f"  from       {_origin(mask.provenance)}",
        f"  stage      {mask.stage}",
        f"  kept       {num_kept:,} ({num_kept / num_points:.1%}), discarded {num_points - num_kept:,}",
    ]
    if mixed.any():
        shares = mask.perturbation[mixed]
        lines.append(
            f"  mixed      {int(mixed.sum()):,} of the kept, with {shares.min():.2f} to {shares.max():.2f} of a partner"
        )
    else:
        lines.append("  mixed      none")
    lines.append(f"  frequency  {int(mask.frequency.min())} to {int(mask.frequency.max())} epochs recorded per point")
    lines.append("  value               5 %      25 %    median      75 %      95 %")
    for name, members in (("kept", kept), ("discarded", ~kept)):
        if members.any():
            quantiles = np.quantile(mask.value[members].numpy(), [0.05, 0.25, 0.5, 0.75, 0.95])
            lines.append(f"    {name:<10}" + "".join(f"{value:>10.4g}" for value in quantiles))
    if labels is not None:
        lines.append(_kept_per_class(mask, kept, labels))
    return "\n".join(lines)


def format_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool = False, text_columns: int = 1
) -> str:
    """Lay out a table whose first columns are text and whose other columns are numbers.

    Args:
        header: Names of the columns.
        rows: Cells, as many per row as the header has.
        markdown: Write a Markdown table instead of aligned text.
        text_columns: How many columns are text.
    """
    if markdown:
        # A bar in a name would open another column.
        header, rows = ([[cell.replace("|", "\\|") for cell in row] for row in part] for part in ([header], rows))
        rules = [["---"] * text_columns + ["---:"] * (len(header[0]) - text_columns)]
        return "\n".join(f"| {' | '.join(row)} |" for row in [*header, *rules, *rows])
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < text_columns else cell.rjust(width)
            for place, (cell, width) in enumerate(cells)
        )
        for cells in (zip(row, widths, strict=True) for row in [header, rule, *rows])
    )


def _spread(runs: Sequence[Results], read: Callable[[Results], float | None]) -> str:
    values = [value for run in runs if (value := read(run)) is not None]
    if not values:
        return NOTHING
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}"


def _average(values) -> str:
    return f"{statistics.fmean(values):.1f}"


def _seeds(runs: Sequence[Results]) -> str:
    # A run repeated with one seed says nothing about the spread over seeds.
    num_seeds = len({run["seed"] for run in runs})
    return str(num_seeds) if num_seeds == len(runs) else f"{num_seeds} ({len(runs)} runs)"


def _origin(provenance: Mapping[str, object]) -> str:
    student, teacher, method = (provenance.get(name) for name in ("student", "teacher", "method"))
    if student is None:
        return "unknown"
    origin = f"{student} under {method}" if teacher is None else f"{teacher} teaching {student} under {method}"
    return f"{origin}, seed {provenance['seed']}" if "seed" in provenance else origin


def _kept_per_class(mask: KnowledgeMask, kept: torch.Tensor, labels: Sequence[int] | np.ndarray | torch.Tensor) -> str:
    labels = np.asarray(labels)
    digest = hashlib.sha256(np.ascontiguousarray(labels, dtype="<i8").tobytes()).hexdigest()
    if digest != mask.dataset.labels:
        raise ValueError(
            f"The {len(labels)} labels are not those of the mask's data set. "
            "Give the labels of the split that the mask was made on, in its original order."
        )
    num_classes = len(mask.dataset.class_names)
    totals = np.bincount(labels, minlength=num_classes)
    counts = np.bincount(labels[kept.numpy()], minlength=num_classes)
    present = np.flatnonzero(totals)
    ranked = present[np.argsort(counts[present] / totals[present], kind="stable")]

    def some(classes: np.ndarray) -> str:
        return ", ".join(f"{mask.dataset.class_names[each]} {counts[each]}/{totals[each]}" for each in classes)

    return f"  kept per class, fewest: {some(ranked[:3])}\n                   most: {some(ranked[::-1][:3])}"


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
