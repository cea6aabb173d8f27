"""Pictures of a run and of its knowledge: curves, stages, values, ranks, the points themselves, masks against masks.

Every function returns a figure of its own: nothing here needs a display or touches pyplot's state.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from ..artifacts.files import atomic_file
from ..artifacts.results import Results, run_label
from ..condensation import KnowledgeMask, rank_points
from ..data import KnowledgeDataset
from .compare import chance_distance, compare_masks

# Okabe and Ito's colours, told apart with every kind of colour vision; yellow is left out as too faint for a line.
_BLUE, _ORANGE, _GREEN, _RED, _PURPLE, _SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
_INK, _GREY, _LIGHT = "#222222", "#8A8A8A", "#DDDDDD"
_CYCLE = (_BLUE, _RED, _GREEN, _PURPLE, _ORANGE, _SKY, _INK)
_DASHES = ("-", "--", "-.", ":")
_DPI = 150
_NUM_BINS = 60
_LONGEST_NAME = 16


def plot_curves(results: Results | Sequence[Results], labels: Sequence[str] | None = None) -> Figure:
    """Draw accuracy and loss over the epochs, and beneath them the share of points that is kept.

    Args:
        results: One run, or several to compare.
        labels: Names of the runs; runs of one name (seeds) share a colour.

    Raises:
        ValueError: When there is no run, or not one label for each.
    """
    runs = [results] if isinstance(results, dict) else list(results)
    if not runs:
        raise ValueError("There is no run to draw: give the results of one or more.")
    labels = [run_label(run) for run in runs] if labels is None else [str(label) for label in labels]
    if len(labels) != len(runs):
        raise ValueError(f"There are {len(labels)} labels for {len(runs)} runs: give one for each.")
    alone = len(runs) == 1
    figure = _figure(8, 7)
    top, middle, bottom = figure.subplots(3, sharex=True, height_ratios=(3, 3, 1.6))
    names = list(dict.fromkeys(labels))
    drawn: set[str] = set()
    for run, label in zip(runs, labels, strict=True):
        colour = _BLUE if alone else _CYCLE[names.index(label) % len(_CYCLE)]
        dashes = _DASHES[names.index(label) // len(_CYCLE) % len(_DASHES)]
        history = {name: np.array(values, dtype=float) for name, values in run["history"].items()}
        epochs = history["epoch"]
        style = {"color": colour, "linestyle": dashes, "linewidth": 1.8}
        if alone:
            _line(top, epochs, history["top1"], label="top-1", **style)
            _line(top, epochs, history["top5"], label="top-5", color=_SKY, linewidth=1.5)
            _line(middle, epochs, history["eval_loss"], label="evaluation (cross-entropy)", **style)
            _line(middle, epochs, history["loss"], label="training (all parts)", color=_ORANGE, linewidth=1.5)
        else:
            # Matplotlib leaves labels that begin with an underscore out of the legend.
            name = "_" if label in drawn else _plain(label)
            _line(top, epochs, history["top1"], label=name, **style)
            _line(middle, epochs, history["eval_loss"], label=name, **style)
        drawn.add(label)
        kept = 100 * history["num_kept"] / run["num_points"]
        edges = np.append(epochs - 1, epochs[-1])
        bottom.stairs(kept, edges, color=colour, linestyle=dashes, linewidth=1.8, baseline=None)
        if alone:
            bottom.stairs(kept, edges, color=colour, fill=True, alpha=0.15)
            boundaries = epochs[1:][np.diff(history["stage"]) > 0] - 1
            for axes in (top, middle, bottom):
                for boundary in boundaries:
                    axes.axvline(boundary, color=_GREY, linewidth=0.8, linestyle=(0, (1, 3)), zorder=0)
    data = ", ".join(dict.fromkeys(run["data"] for run in runs))
    _title(figure, f"{labels[0]} on {data}" if alone else f"{len(runs)} runs on {data}")
    if alone:
        accuracy, cost = runs[0]["accuracy"], 100 * runs[0]["cost"]["paid"]
        reached = (
            "not evaluated" if accuracy is None else f"top-1 {accuracy['last']['top1']:.2f} % after the last epoch"
        )
        top.set_title(f"{reached}, {cost:.1f} % of the full cost", loc="left", fontsize=10, color=_INK)
    _label(top, "accuracy (%)" if alone else "top-1 accuracy (%)")
    _label(middle, "loss" if alone else "evaluation loss")
    _label(bottom, "points kept (%)", "epoch (dotted: a new selection)" if alone else "epoch")
    bottom.set_ylim(0, 105)
    bottom.set_xlim(0, max(run["history"]["epoch"][-1] for run in runs))
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (top, middle):
        if not axes.get_legend_handles_labels()[0]:
            axes.text(0.5, 0.5, "nothing logged", transform=axes.transAxes, ha="center", va="center", color=_GREY)
        elif alone or axes is top:
            axes.legend(frameon=False, fontsize=9)
    return figure


def plot_stages(masks: Sequence[KnowledgeMask]) -> Figure:
    """Draw, stage by stage, how many points are kept, mixed and discarded, and how many came back or left.

    Args:
        masks: The masks of a run's stages; the changes of the first are drawn when it is stage 1, before which all
            points were kept.

    Raises:
        ValueError: When there is none, or two belong to different data sets.
    """
    masks = _in_order(masks)
    stages = [mask.stage for mask in masks]
    num_points = masks[0].num_points
    mixed = np.array([int((mask.partner >= 0).sum()) for mask in masks])
    pure = np.array([len(mask.kept) for mask in masks]) - mixed
    returned, dropped = _changes(masks)
    figure = _figure(max(7, 1.0 * len(masks) + 3), 6.2)
    top, bottom = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    positions = np.arange(len(masks))
    base = np.zeros(len(masks))
    for counts, colour, ink, name in (
        (pure, _BLUE, "white", "kept as they are"),
        (mixed, _ORANGE, _INK, "kept, mixed with a discarded one"),
        (num_points - pure - mixed, _LIGHT, _INK, "discarded"),
    ):
        bars = top.bar(positions, counts, 0.72, base, color=colour, label=name)
        texts = [f"{count:,}" if count > 0.05 * num_points else "" for count in counts]
        top.bar_label(bars, texts, label_type="center", color=ink, fontsize=9)
        base += counts
    for counts, sign, colour, name in (
        (returned, 1, _GREEN, "came back (discarded before)"),
        (dropped, -1, _RED, "left (kept before)"),
    ):
        bars = bottom.bar(positions, sign * counts, 0.72, color=colour, label=name)
        texts = ["" if np.isnan(count) else f"{count:,.0f}" for count in counts]
        bottom.bar_label(bars, texts, padding=2, fontsize=9)
    bottom.axhline(0, color=_INK, linewidth=0.8)
    bottom.margins(y=0.22)
    # Where no point came back, its zeros still need room under the legend.
    low, high = bottom.get_ylim()
    bottom.set_ylim(low, max(high, -0.2 * low))
    bottom.set_xticks(positions, stages)
    _title(figure, f"Knowledge kept at each stage: {num_points:,} points, {len(masks[-1].kept):,} at the end")
    _label(top, "points")
    _label(bottom, "change of the set (points)", "stage")
    top.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    bottom.yaxis.set_major_formatter(lambda value, _: f"{abs(value):,.0f}")
    for axes in (top, bottom):
        axes.legend(frameon=False, fontsize=9, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
        axes.grid(False)
    return figure


def plot_values(masks: Sequence[KnowledgeMask]) -> Figure:
    """Draw how the points' values are distributed at each stage, those kept apart from those discarded.

    Values that spread over more than two orders of magnitude are drawn on a logarithmic axis. Points that no epoch has
    recorded have no value and are left out.

    Args:
        masks: The masks of a run's stages.

    Raises:
        ValueError: When there is none, two belong to different data sets, or nothing was recorded.
    """
    masks = _in_order(masks)
    recorded = [mask.value[mask.frequency > 0].numpy() for mask in masks]
    values = np.concatenate(recorded)
    if not len(values):
        raise ValueError("The masks hold no recorded values: they were made before the first epoch.")
    edges, logarithmic = _bins(values)
    figure = _figure(8, 1.6 + 0.85 * len(masks))
    axes = figure.subplots()
    heights = []
    for mask in masks:
        seen, kept = mask.frequency > 0, mask.kept_mask
        groups = [mask.value[seen & kept], mask.value[seen & ~kept]]
        # What lies under the first edge of a logarithmic axis (often exactly 0) is counted in the first bin.
        heights.append([np.histogram(group.numpy().clip(edges[0], edges[-1]), edges)[0] for group in groups])
    scale = 0.92 / max(sum(pair).max() for pair in heights)
    for row, pair in enumerate(heights):
        floor = len(masks) - 1 - row
        axes.stairs(scale * pair[1] + floor, edges, baseline=floor, fill=True, color=_GREY, alpha=0.55, zorder=2)
        axes.stairs(
            scale * (pair[0] + pair[1]) + floor,
            edges,
            baseline=scale * pair[1] + floor,
            fill=True,
            color=_BLUE,
            zorder=2,
        )
        axes.axhline(floor, color=_INK, linewidth=0.8, zorder=3)
    axes.set_yticks(range(len(masks)), [f"stage {mask.stage}" for mask in reversed(masks)])
    axes.set_ylim(-0.03, len(masks))
    axes.set_xlim(edges[0], edges[-1])
    if logarithmic:
        axes.set_xscale("log")
    kept = axes.stairs([0], [edges[0], edges[-1]], baseline=0, fill=True, color=_BLUE, label="kept")
    discarded = axes.stairs(
        [0], [edges[0], edges[-1]], baseline=0, fill=True, color=_GREY, alpha=0.55, label="discarded"
    )
    name = masks[-1].schedule.get("value", "value")
    name = "prediction entropy (nats)" if name in ("entropy", "random") else str(name).replace("_", " ")
    _title(figure, f"Values of {masks[0].num_points:,} points at each selection (stacked counts)")
    _label(axes, "", f"value: {_plain(name)}, mean over the epochs that recorded it" + ", log scale" * logarithmic)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.legend(
        handles=[kept, discarded],
        frameon=False,
        fontsize=9,
        ncols=2,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.2,
    )
    return figure


def plot_ranks(masks: Sequence[KnowledgeMask], num_points: int = 200, num_rising: int = 10) -> Figure:
    """Draw how points rise and fall over the stages by their ranking-based probability 1 - R / N (Eq. 8; Fig. 3b).

    The points are drawn at random, the same ones each time. A kept point's rank is its place in the mask; discarded
    points follow by Eq. 13, also where the ranking itself was random.

    Args:
        masks: The masks of two or more stages of a run.
        num_points: Number of points drawn.
        num_rising: Number of them in red: those that rise most from the first stage to the last.

    Raises:
        ValueError: When there are fewer than two, or two belong to different data sets.
    """
    masks = _in_order(masks)
    if len(masks) < 2:
        raise ValueError("One mask has ranks but no change of them: give the masks of two or more stages.")
    total = masks[0].num_points
    drawn = np.random.default_rng(0).permutation(total)[:num_points]
    probability = np.stack([1 - _ranks(mask)[drawn] / total for mask in masks])
    rising = np.argsort(probability[0] - probability[-1], kind="stable")[:num_rising]
    rising = rising[probability[-1, rising] > probability[0, rising]]
    figure = _figure(8, 5)
    axes = figure.subplots()
    stages = [mask.stage for mask in masks]
    axes.plot(stages, np.delete(probability, rising, axis=1), color=_GREY, linewidth=0.7, alpha=0.3)
    axes.plot(stages, probability[:, rising], color=_RED, linewidth=1.8, marker="o", markersize=3.5)
    axes.plot([], [], color=_RED, marker="o", markersize=3.5, label=f"the {len(rising)} that rise most")
    axes.plot([], [], color=_GREY, linewidth=0.7, label="other points")
    thresholds = [1 - len(mask.kept) / total for mask in masks]
    axes.plot(stages, thresholds, color=_INK, linewidth=1.8, linestyle="--", label="kept above this line")
    _title(figure, f"How {len(drawn)} of {total:,} points rise and fall in value over the stages")
    _label(axes, "ranking-based probability 1 − R/N", "stage")
    axes.set_ylim(-0.02, 1.02)
    axes.set_xticks(stages)
    axes.margins(x=0.02)
    axes.legend(frameon=False, fontsize=9, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    return figure


def contact_sheet(dataset: KnowledgeDataset, mask: KnowledgeMask, num: int = 32, which: str = "most") -> Figure:
    """Show the images of the most or the least valuable points, each with its class and its value.

    Args:
        dataset: The training set of the mask; images that it has mixed for good are shown mixed.
        mask: The mask.
        num: Number of images, at most the number of points.
        which: `"most"` valuable points, the best first, or the `"least"` valuable, the last first.

    Raises:
        ValueError: When the mask is about another data set, or an argument is out of its range.
    """
    mask.check(dataset.identity)
    if which not in ("most", "least"):
        raise ValueError(f"which is {which!r}: ask for the 'most' or the 'least' valuable points.")
    if num < 1:
        raise ValueError(f"num is {num}: show at least one image.")
    order = np.argsort(_ranks(mask))
    points = (order if which == "most" else order[::-1])[:num]
    columns = min(8, len(points))
    rows = -(-len(points) // columns)
    figure = _figure(max(1.35 * columns, 6.5), 1.75 * rows + 0.6)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, point in zip(grid, points.tolist(), strict=False):
        pixels = dataset.image(point)
        axes.imshow(pixels, interpolation="nearest" if max(pixels.shape) < 96 else "antialiased")
        name = dataset.class_names[int(dataset.labels[point])]
        text = f"{_short(name)}\n{_value(mask.value[point])}"
        axes.text(0.5, -0.05, text, transform=axes.transAxes, ha="center", va="top", fontsize=9, parse_math=False)
    _title(
        figure,
        f"The {len(points)} {which} valuable of {mask.num_points:,} points at stage {mask.stage}, with class and value",
    )
    return figure


def plot_hamming(names: Sequence[str], masks: Sequence[KnowledgeMask]) -> Figure:
    """Draw how many points every two masks disagree on (Fig. 3c), relative to what chance would give.

    Args:
        names: Names of the masks.
        masks: Masks of one data set.

    Raises:
        ValueError: When there are fewer than two masks, two names are equal or missing, or two masks are about
            different data sets.
    """
    if len(names) != len(masks) or len(set(names)) < len(names):
        raise ValueError(f"There are {len(set(names))} different names for {len(masks)} masks: give one for each.")
    distances = compare_masks(dict(zip(names, masks, strict=True)))
    chance = np.array([[chance_distance(mask, other) for other in masks] for mask in masks])
    # Where both keep everything, chance finds no difference either.
    share = distances / np.maximum(chance, 1)
    count = len(masks)
    figure = _figure(max(5.5, 1.15 * count + 2.5), max(4.2, 0.9 * count + 1.8))
    axes = figure.subplots()
    shade = LinearSegmentedColormap.from_list("blues", ["#F4F8FB", _SKY, "#00446B"])
    image = axes.imshow(share, cmap=shade, vmin=0, vmax=max(1.0, share.max()))
    for row in range(count):
        for column in range(count):
            colour = "white" if share[row, column] > 0.6 * image.norm.vmax else _INK
            axes.text(column, row, f"{distances[row, column]:,}", ha="center", va="center", color=colour, fontsize=10)
    texts = [_plain(name) for name in names]
    axes.set_xticks(range(count), texts, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(count), texts)
    axes.tick_params(length=0, labelsize=10)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, format=PercentFormatter(1.0), shrink=0.85)
    bar.set_label("of what random masks differ by", fontsize=10)
    bar.outline.set_visible(False)
    _title(figure, f"Points kept by one mask and discarded by the other, of {masks[0].num_points:,}")
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, whole or not at all.

    Args:
        figure: The figure.
        path: The file.
    """
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI)


def write_run_plots(
    run_folder: str | Path,
    results: Results,
    masks: Sequence[KnowledgeMask],
    dataset: KnowledgeDataset | None = None,
) -> list[Path]:
    """Write every picture of a run into its folder `plots`, replacing those of an earlier call.

    Args:
        run_folder: The run's folder.
        results: Its results.
        masks: The masks of its stages; none for a run without condensation, which has curves alone.
        dataset: Its training set, for the contact sheets of the last mask.

    Returns:
        The files: `curves.png`; with masks `stages.png`, `values.png` and, from two stages on, `ranks.png`; with masks
        and a data set `most_valuable.png` and `least_valuable.png`.
    """
    figures = {"curves": plot_curves(results)}
    if masks:
        figures |= {"stages": plot_stages(masks), "values": plot_values(masks)}
    if len(masks) > 1:
        figures["ranks"] = plot_ranks(masks)
    if masks and dataset is not None:
        last = _in_order(masks)[-1]
        for which in ("most", "least"):
            figures[f"{which}_valuable"] = contact_sheet(dataset, last, which=which)
    paths = [Path(run_folder) / "plots" / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        save_figure(figure, path)
    return paths


def _in_order(masks: Sequence[KnowledgeMask]) -> list[KnowledgeMask]:
    if not masks:
        raise ValueError("There is no mask to draw: give those of a run's stages.")
    masks = sorted(masks, key=lambda mask: mask.stage)
    for mask in masks[1:]:
        masks[0].check(mask.dataset)
    if len({mask.stage for mask in masks}) < len(masks):
        raise ValueError("Two masks are of one stage: give those of one run, each once.")
    return masks


def _changes(masks: Sequence[KnowledgeMask]) -> tuple[np.ndarray, np.ndarray]:
    """Count the points that came back and that left at each stage; NaN where the stage before is not known."""
    returned, dropped = np.full(len(masks), np.nan), np.full(len(masks), np.nan)
    everything = torch.ones(masks[0].num_points, dtype=torch.bool)
    before, stage_before = everything, 0
    for position, mask in enumerate(masks):
        kept = mask.kept_mask
        if mask.stage == stage_before + 1:
            returned[position] = int((kept & ~before).sum())
            dropped[position] = int((before & ~kept).sum())
        before, stage_before = kept, mask.stage
    return returned, dropped


def _ranks(mask: KnowledgeMask) -> np.ndarray:
    """Rank all points [N], from 0: the kept ones by their place in the mask, the discarded behind them by Eq. 13."""
    exponent = mask.schedule.get("cost_exponent", 0.0)
    order = rank_points(mask.value * mask.frequency.clamp_min(1).double() ** exponent)
    order = torch.cat([mask.kept, order[~mask.kept_mask[order]]])
    ranks = np.empty(mask.num_points, dtype=np.int64)
    ranks[order.numpy()] = np.arange(mask.num_points)
    return ranks


def _bins(values: np.ndarray) -> tuple[np.ndarray, bool]:
    positive = values[values > 0]
    if values.min() >= 0 and len(positive):
        # The lowest few values (an entropy can be 1e-30) would stretch the axis over emptiness.
        low, high = np.quantile(positive, 0.005), positive.max()
        if high > 100 * low:
            return np.geomspace(low, high * 1.02, _NUM_BINS + 1), True
    low, high = values.min(), values.max()
    margin = 0.02 * (high - low) or 0.5
    return np.linspace(low - margin, high + margin, _NUM_BINS + 1), False


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _title(figure: Figure, text: str) -> None:
    # A bold character of 12 points is about an eighth of an inch wide.
    text = textwrap.fill(_plain(text), int(8.5 * figure.get_figwidth()))
    figure.suptitle(text, x=0.012, ha="left", fontsize=12, color=_INK, weight="bold")


def _label(axes: Axes, vertical: str, horizontal: str = "") -> None:
    axes.set_ylabel(vertical, fontsize=10, color=_INK)
    axes.set_xlabel(horizontal, fontsize=10, color=_INK)
    axes.tick_params(labelsize=9, colors=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=_LIGHT, linewidth=0.6)
    axes.set_axisbelow(True)


def _line(axes: Axes, epochs: np.ndarray, values: np.ndarray, **style) -> None:
    """Draw what there is of a curve: epochs without an evaluation or a line of the log are bridged."""
    there = ~np.isnan(values)
    if there.any():
        # A single point would be an invisible line.
        axes.plot(epochs[there], values[there], marker="o" if there.sum() == 1 else None, markersize=4, **style)


def _plain(text: str) -> str:
    # What stands between two dollar signs would be read as a formula.
    return text.replace("$", r"\$")


def _short(name: str) -> str:
    name = name.partition(",")[0]
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _value(value: torch.Tensor) -> str:
    return f"{float(value):.2g}" if abs(value) < 0.01 else f"{float(value):.2f}"
