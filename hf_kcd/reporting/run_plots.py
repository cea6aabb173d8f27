"""All pictures of a run, and the contact sheets of its points."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from ..artifacts.figures import new_figure, save_figure, set_title
from ..artifacts.results import Results
from ..condensation import KnowledgeMask
from ..data import KnowledgeDataset
from .curves import plot_curves
from .mask_plots import in_order, plot_ranks, plot_stages, plot_values, point_ranks

_LONGEST_NAME = 16


def write_run_plots(
    run_folder: str | Path,
    results: Results,
    masks: Sequence[KnowledgeMask],
    dataset: KnowledgeDataset | None = None,
) -> list[Path]:
    """Write every picture of a run into its folder `plots`, replacing earlier ones.

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
        last = in_order(masks)[-1]
        figures |= {f"{end}_valuable": contact_sheet(dataset, last, which=end) for end in ("most", "least")}
    paths = [Path(run_folder) / "plots" / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        save_figure(figure, path)
    return paths


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
    order = np.argsort(point_ranks(mask))
    points = (order if which == "most" else order[::-1])[:num]
    columns = min(8, len(points))
    rows = -(-len(points) // columns)
    figure = new_figure(max(1.35 * columns, 6.5), 1.75 * rows + 0.6)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, point in zip(grid, points.tolist(), strict=False):
        pixels = dataset.image(point)
        axes.imshow(pixels, interpolation="nearest" if max(pixels.shape) < 96 else "antialiased")
        name = dataset.class_names[int(dataset.labels[point])]
        text = f"{_short(name)}\n{_number(mask.value[point])}"
        axes.text(0.5, -0.05, text, transform=axes.transAxes, ha="center", va="top", fontsize=9, parse_math=False)
    total = f"{mask.num_points:,} points at stage {mask.stage}"
    set_title(figure, f"The {len(points)} {which} valuable of {total}, with class and value")
    return figure


def _short(name: str) -> str:
    name = name.partition(",")[0]
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _number(value: torch.Tensor) -> str:
    return f"{float(value):.2g}" if abs(value) < 0.01 else f"{float(value):.2f}"
