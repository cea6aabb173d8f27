"""Pictures of masks: the stages of a run, the points' values and ranks, and masks against each other."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from ..artifacts import figures
from ..condensation import KnowledgeMask, rank_points
from ..condensation.value_plot import value_figure
from .compare import chance_distance, compare_masks


def plot_stages(masks: Sequence[KnowledgeMask]) -> Figure:
    """Draw, stage by stage, how many points are kept, mixed and discarded, and how many came back or left.

    All points are kept before stage 1; the changes since a missing stage are not drawn.

    Raises:
        ValueError: When no mask is given, or two have the same stage.
    """
    masks = in_order(masks)
    num_points = masks[0].num_points
    mixed = np.array([int(mask.selection.is_mixed.sum()) for mask in masks])
    pure = np.array([len(mask.kept) for mask in masks]) - mixed
    figure = figures.new_figure(max(7, 1.0 * len(masks) + 3), 6.2)
    top, bottom = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    positions, base = np.arange(len(masks)), np.zeros(len(masks))
    for counts, color, ink, name in (
        (pure, figures.BLUE, "white", "kept as they are"),
        (mixed, figures.ORANGE, figures.INK, "kept, mixed with a discarded one"),
        (num_points - pure - mixed, figures.LIGHT, figures.INK, "discarded"),
    ):
        bars = top.bar(positions, counts, 0.72, base, color=color, label=name)
        texts = [f"{count:,}" if count > 0.05 * num_points else "" for count in counts]
        top.bar_label(bars, texts, label_type="center", color=ink, fontsize=9)
        base += counts
    _draw_changes(bottom, masks)
    title = f"Knowledge kept at each stage: {num_points:,} points, {len(masks[-1].kept):,} at the end"
    figures.set_title(figure, title)
    figures.set_labels(top, "points")
    figures.set_labels(bottom, "change of the set (points)", "stage")
    top.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    bottom.yaxis.set_major_formatter(lambda value, _: f"{abs(value):,.0f}")
    for axes in (top, bottom):
        figures.legend_above(axes, 3)
        axes.grid(False)
    return figure


def plot_values(masks: Sequence[KnowledgeMask]) -> Figure:
    """Draw how the points' values are distributed at each stage, kept points apart from discarded ones.

    The axis is logarithmic for values over more than two orders of magnitude. Points without a record are left out.

    Raises:
        ValueError: As `plot_stages`, and when nothing was recorded.
    """
    masks = in_order(masks)
    groups, stages = [mask.recorded_values for mask in masks], [mask.stage for mask in masks]
    return value_figure(groups, stages, masks[0].num_points, str(masks[-1].schedule.get("value", "value")))


def plot_ranks(masks: Sequence[KnowledgeMask], num_points: int = 200, num_rising: int = 10) -> Figure:
    """Draw how points rise and fall over the stages by their ranking-based probability 1 - R / N (Eq. 8; Fig. 3b).

    Args:
        masks: The masks of two or more stages of a run.
        num_points: Number of points drawn, chosen at random, the same ones each time.
        num_rising: Number of them in red: those that rise most from the first stage to the last.

    Raises:
        ValueError: As `plot_stages`, and for one mask.
    """
    masks = in_order(masks)
    if len(masks) < 2:
        raise ValueError("One mask has ranks but no change of them: give the masks of two or more stages.")
    total = masks[0].num_points
    drawn = np.random.default_rng(0).permutation(total)[:num_points]
    probability = np.stack([1 - point_ranks(mask)[drawn] / total for mask in masks])
    rising = np.argsort(probability[0] - probability[-1], kind="stable")[:num_rising]
    rising = rising[probability[-1, rising] > probability[0, rising]]
    figure = figures.new_figure(8, 5)
    axes, stages = figure.subplots(), [mask.stage for mask in masks]
    axes.plot(stages, np.delete(probability, rising, axis=1), color=figures.GRAY, linewidth=0.7, alpha=0.3)
    axes.plot(stages, probability[:, rising], color=figures.RED, linewidth=1.8, marker="o", markersize=3.5)
    axes.plot([], [], color=figures.RED, marker="o", markersize=3.5, label=f"the {len(rising)} that rise most")
    axes.plot([], [], color=figures.GRAY, linewidth=0.7, label="other points")
    thresholds = [1 - len(mask.kept) / total for mask in masks]
    axes.plot(stages, thresholds, color=figures.INK, linewidth=1.8, linestyle="--", label="kept above this line")
    figures.set_title(figure, f"How {len(drawn)} of {total:,} points rise and fall in value over the stages")
    figures.set_labels(axes, "ranking-based probability 1 − R/N", "stage")
    axes.set(ylim=(-0.02, 1.02), xticks=stages, xmargin=0.02)
    figures.legend_above(axes, 3)
    return figure


def plot_hamming(names: Sequence[str], masks: Sequence[KnowledgeMask]) -> Figure:
    """Draw how many points every two named masks disagree on (Fig. 3c), relative to what chance would give.

    Raises:
        ValueError: As `compare_masks`, and when two names are equal or missing.
    """
    if len(names) != len(masks) or len(set(names)) < len(names):
        raise ValueError(f"There are {len(set(names))} different names for {len(masks)} masks: give one for each.")
    distances = compare_masks(dict(zip(names, masks, strict=True)))
    chance = np.array([[chance_distance(mask, other) for other in masks] for mask in masks])
    # Where both keep everything, chance finds no difference either.
    share, count = distances / np.maximum(chance, 1), len(masks)
    figure = figures.new_figure(max(5.5, 1.15 * count + 2.5), max(4.2, 0.9 * count + 1.8))
    axes = figure.subplots()
    shade = LinearSegmentedColormap.from_list("blues", ["#F4F8FB", figures.SKY, "#00446B"])
    image = axes.imshow(share, cmap=shade, vmin=0, vmax=max(1.0, share.max()))
    for (row, column), distance in np.ndenumerate(distances):
        color = "white" if share[row, column] > 0.6 * image.norm.vmax else figures.INK
        axes.text(column, row, f"{distance:,}", ha="center", va="center", color=color, fontsize=10)
    texts = [figures.plain(name) for name in names]
    axes.set_xticks(range(count), texts, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(count), texts)
    axes.tick_params(length=0, labelsize=10)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, format=PercentFormatter(1.0), shrink=0.85)
    bar.set_label("share of the distance between random masks", fontsize=10)
    bar.outline.set_visible(False)
    figures.set_title(figure, f"Points kept by one mask and discarded by the other, of {masks[0].num_points:,}")
    return figure


def point_ranks(mask: KnowledgeMask) -> np.ndarray:
    """Rank all points [N], from 0: the kept ones by their place in the mask, then the discarded ones by Eq. 13."""
    exponent = mask.schedule.get("cost_exponent", 0.0)
    order = rank_points(mask.value * mask.frequency.clamp_min(1).double() ** exponent)
    order = torch.cat([mask.kept, order[~mask.kept_mask[order]]])
    ranks = np.empty(mask.num_points, dtype=np.int64)
    ranks[order.numpy()] = np.arange(mask.num_points)
    return ranks


def in_order(masks: Sequence[KnowledgeMask]) -> list[KnowledgeMask]:
    """Sort the masks of a run by stage, after a check that they are those of one run."""
    if not masks:
        raise ValueError("No mask is given: pass the masks of a run's stages.")
    masks = sorted(masks, key=lambda mask: mask.stage)
    for mask in masks[1:]:
        masks[0].check(mask.dataset, mask.labels)
    if len({mask.stage for mask in masks}) < len(masks):
        raise ValueError("Two masks have the same stage: pass the masks of one run, each once.")
    return masks


def _draw_changes(axes: Axes, masks: Sequence[KnowledgeMask]) -> None:
    """Draw how many points came back and left at each stage; nothing where the stage before is missing."""
    returned, dropped = np.full((2, len(masks)), np.nan)
    before, stage_before = torch.ones(masks[0].num_points, dtype=torch.bool), 0
    for position, mask in enumerate(masks):
        kept = mask.kept_mask
        if mask.stage == stage_before + 1:
            returned[position], dropped[position] = int((kept & ~before).sum()), int((before & ~kept).sum())
        before, stage_before = kept, mask.stage
    positions = np.arange(len(masks))
    for counts, sign, color, name in (
        (returned, 1, figures.GREEN, "came back (discarded before)"),
        (dropped, -1, figures.RED, "left (kept before)"),
    ):
        bars = axes.bar(positions, sign * counts, 0.72, color=color, label=name)
        axes.bar_label(bars, ["" if np.isnan(count) else f"{count:,.0f}" for count in counts], padding=2, fontsize=9)
    axes.axhline(0, color=figures.INK, linewidth=0.8)
    axes.margins(y=0.22)
    # Where no point came back, its zeros still need room under the legend.
    low, high = axes.get_ylim()
    axes.set_ylim(low, max(high, -0.2 * low))
    axes.set_xticks(positions, [mask.stage for mask in masks])
