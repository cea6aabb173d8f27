"""Histograms of the points' values at each stage, kept points apart from discarded ones."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..artifacts.figures import BLUE, GRAY, INK, legend_above, new_figure, plain, set_labels, set_title

_NUM_BINS = 60


def value_figure(
    groups: Sequence[tuple[np.ndarray, np.ndarray]], stages: Sequence[int], num_points: int, value: str
) -> Figure:
    """Draw one row of stacked counts per stage, the first on top; logarithmic over two orders of magnitude.

    `groups` holds the values of the kept and of the discarded points at each stage.
    """
    values = np.concatenate([part for group in groups for part in group])
    if not len(values):
        raise ValueError("The masks hold no recorded values: they were made before the first epoch.")
    edges, logarithmic = _bins(values)
    # Values under the first edge of a logarithmic axis (often exactly 0) are counted in the first bin.
    counts = [[np.histogram(part.clip(edges[0], edges[-1]), edges)[0] for part in group] for group in groups]
    scale = 0.92 / max((kept + discarded).max() for kept, discarded in counts)
    figure = new_figure(8, 1.6 + 0.85 * len(groups))
    axes = figure.subplots()
    discarded_style: dict[str, Any] = {"fill": True, "color": GRAY, "alpha": 0.55}
    kept_style: dict[str, Any] = {"fill": True, "color": BLUE}
    for floor, (kept, discarded) in enumerate(reversed(counts)):
        border = scale * discarded + floor
        axes.stairs(border, edges, baseline=floor, zorder=2, **discarded_style)
        axes.stairs(scale * (kept + discarded) + floor, edges, baseline=border, zorder=2, **kept_style)
        axes.axhline(floor, color=INK, linewidth=0.8, zorder=3)
    axes.set_yticks(range(len(groups)), [f"stage {stage}" for stage in reversed(stages)])
    axes.set_ylim(-0.03, len(groups))
    axes.set_xlim(edges[0], edges[-1])
    if logarithmic:
        axes.set_xscale("log")
    name = "prediction entropy (nats)" if value in ("entropy", "random") else value.replace("_", " ")
    set_title(figure, f"Values of {num_points:,} points at each selection (stacked counts)")
    set_labels(axes, "", f"value: {plain(name)}, mean over the epochs that recorded it" + ", log scale" * logarithmic)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    styles, ends = {"kept": kept_style, "discarded": discarded_style}, [edges[0], edges[-1]]
    legend_above(axes, 2, [axes.stairs([0], ends, baseline=0, label=name, **styles[name]) for name in styles])
    return figure


def _bins(values: np.ndarray) -> tuple[np.ndarray, bool]:
    positive = values[values > 0]
    if values.min() >= 0 and len(positive):
        # The lowest few values (an entropy can be 1e-30) would stretch the axis over empty space.
        low, high = np.quantile(positive, 0.005), positive.max()
        if high > 100 * low:
            return np.geomspace(low, high * 1.02, _NUM_BINS + 1), True
    low, high = values.min(), values.max()
    margin = 0.02 * (high - low) or 0.5
    return np.linspace(low - margin, high + margin, _NUM_BINS + 1), False
