"""Curves of runs: accuracy, loss, and the share of the points that is kept."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..artifacts import figures
from ..artifacts.results import Results, run_label

_CYCLE = (figures.BLUE, figures.RED, figures.GREEN, figures.PURPLE, figures.ORANGE, figures.SKY, figures.INK)
_DASHES = ("-", "--", "-.", ":")
_WIDE, _THIN = 1.8, 1.5


def plot_curves(results: Results | Sequence[Results], labels: Sequence[str] | None = None) -> Figure:
    """Draw accuracy and loss over the epochs, and below them the share of points that is kept.

    Args:
        results: One run, or several to compare; none is a ValueError.
        labels: Names of the runs; runs with the same name (seeds) share a color.
    """
    runs = [results] if isinstance(results, dict) else list(results)
    if not runs:
        raise ValueError("There is no run to draw: give the results of one or more.")
    labels = [run_label(run) for run in runs] if labels is None else [str(label) for label in labels]
    if len(labels) != len(runs):
        raise ValueError(f"There are {len(labels)} labels for {len(runs)} runs: give one for each.")
    figure = figures.new_figure(8, 7)
    rows = figure.subplots(3, sharex=True, height_ratios=(3, 3, 1.6))
    data = ", ".join(dict.fromkeys(run["data"] for run in runs))
    if len(runs) == 1:
        figures.set_title(figure, f"{labels[0]} on {data}")
        _draw_one(rows, runs[0])
    else:
        figures.set_title(figure, f"{len(runs)} runs on {data}")
        _draw_several(rows, runs, labels)
    rows[2].set(ylim=(0, 105), xlim=(0, max(run["history"]["epoch"][-1] for run in runs)))
    rows[2].xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in rows[:2]:
        if not axes.get_legend_handles_labels()[0]:
            place = {"transform": axes.transAxes, "ha": "center", "va": "center"}
            axes.text(0.5, 0.5, "nothing logged", color=figures.GRAY, **place)
        elif len(runs) == 1 or axes is rows[0]:
            axes.legend(frameon=False, fontsize=9)
    return figure


def _draw_one(rows: Sequence[Axes], run: Results) -> None:
    """Draw every curve of a run, with a dotted line at each selection."""
    (top, middle, bottom), history = rows, _columns(run)
    epochs = history["epoch"]
    _line(top, epochs, history["top1"], label="top-1", color=figures.BLUE, linewidth=_WIDE)
    _line(top, epochs, history["top5"], label="top-5", color=figures.SKY, linewidth=_THIN)
    main = {"color": figures.BLUE, "linewidth": _WIDE}
    _line(middle, epochs, history["eval_loss"], label="evaluation (cross-entropy)", **main)
    _line(middle, epochs, history["loss"], label="training (all parts)", color=figures.ORANGE, linewidth=_THIN)
    _kept(bottom, run, baseline=None, **main)
    _kept(bottom, run, color=figures.BLUE, fill=True, alpha=0.15)
    for axes in rows:
        for boundary in epochs[1:][np.diff(history["stage"]) > 0] - 1:
            axes.axvline(boundary, color=figures.GRAY, linewidth=0.8, linestyle=(0, (1, 3)), zorder=0)
    accuracy, cost = run["accuracy"], 100 * run["cost"]["paid"]
    evaluated = f" on {figures.plain(run['evaluation_set'])}" if run.get("evaluation_set") else ""
    reached = (
        f"top-1 {accuracy['last']['top1']:.2f} %{evaluated} after the last epoch" if accuracy else "not evaluated"
    )
    top.set_title(f"{reached}, {cost:.1f} % of the full cost", loc="left", fontsize=10, color=figures.INK)
    figures.set_labels(top, "accuracy (%)")
    figures.set_labels(middle, "loss")
    figures.set_labels(bottom, "points kept (%)", "epoch (dotted: a new selection)")


def _draw_several(rows: Sequence[Axes], runs: Sequence[Results], labels: Sequence[str]) -> None:
    """Draw top-1, evaluation loss and kept points of runs, in one color per label."""
    top, middle, bottom = rows
    for position, (run, label) in enumerate(zip(runs, labels, strict=True)):
        place = list(dict.fromkeys(labels)).index(label)
        dashes = _DASHES[place // len(_CYCLE) % len(_DASHES)]
        style = {"color": _CYCLE[place % len(_CYCLE)], "linestyle": dashes, "linewidth": _WIDE}
        # Matplotlib leaves labels that begin with an underscore out of the legend.
        name = "_" if label in labels[:position] else figures.plain(label)
        history = _columns(run)
        _line(top, history["epoch"], history["top1"], label=name, **style)
        _line(middle, history["epoch"], history["eval_loss"], label=name, **style)
        _kept(bottom, run, baseline=None, **style)
    figures.set_labels(top, "top-1 accuracy (%)")
    figures.set_labels(middle, "evaluation loss")
    figures.set_labels(bottom, "points kept (%)", "epoch")


def _columns(run: Results) -> dict[str, np.ndarray]:
    return {name: np.array(values, dtype=float) for name, values in run["history"].items()}


def _kept(axes: Axes, run: Results, **style) -> None:
    history = _columns(run)
    epochs, share = history["epoch"], 100 * history["num_kept"] / run["num_points"]
    axes.stairs(share, np.append(epochs - 1, epochs[-1]), **style)


def _line(axes: Axes, epochs: np.ndarray, values: np.ndarray, **style) -> None:
    """Draw a curve, bridging epochs without a value."""
    there = ~np.isnan(values)
    if there.any():
        # A single point would be an invisible line.
        axes.plot(epochs[there], values[there], marker="o" if there.sum() == 1 else None, markersize=4, **style)
