"""One run: its end in a few lines of text, all its pictures, and the contact sheets of its points."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..artifacts.figures import new_figure, save_figure, set_title
from ..artifacts.results import Results
from ..artifacts.run_folder import STAGES_FOLDER
from ..condensation import KnowledgeMask
from ..data import KnowledgeDataset
from ..errors import whole_number
from .curves import plot_curves
from .mask_plots import in_order, plot_ranks, plot_stages, plot_values, point_ranks

_LONGEST_NAME = 16


def describe_run(results: Results, folder: str | Path) -> str:
    """Describe the end of a run in a few lines: accuracy, cost, time, and the folders of its networks."""
    lines = [f"\n{results['student']} on {results['data']}, method {results['method']}"]
    if results["accuracy"] is not None:
        last, best = results["accuracy"]["last"], results["accuracy"]["best"]
        evaluated = f" on {results['evaluation_set']}" if results.get("evaluation_set") else ""
        reached = f"top-1 {last['top1']:.2f} %, top-5 {last['top5']:.2f} %{evaluated} after the last epoch"
        lines.append(f"  accuracy  {reached} (best top-1 {best['top1']:.2f} %, epoch {best['epoch']:g})")
    paid, planned, step = (results["cost"].get(name) for name in ("paid", "planned", "step"))
    lines.append(f"  cost      {paid:.2%} of the points of a whole training (planned {planned:.2%})")
    if step not in (None, 1.0):
        lines.append(f"            {paid * step:.2%} of its computation: a step costs {step:.2f} steps of KD")
    time = f"{results['seconds']['training']:.1f} s of training"
    if (first := results["cost"].get("first_phase")) is not None:
        lines.append(f"            and {first:.2%} of its points in the method's first phase")
        time += f", {results['seconds']['first_phase']:.1f} s of the first phase before"
    lines += [f"  time      {time}", f"  folder    {folder}"]
    for name, accuracy in results["networks"].items():
        reached = "" if accuracy is None else f", top-1 {accuracy['last']['top1']:.2f} %"
        lines.append(f"  beside it {Path(folder) / name}{reached}")
    return "\n".join(lines)


def write_run_plots(
    run_folder: str | Path,
    results: Results,
    masks: Sequence[KnowledgeMask] | None = None,
    dataset: KnowledgeDataset | None = None,
) -> list[Path]:
    """Write every picture of a run into its folder `plots`, replacing earlier ones.

    Args:
        run_folder, results: The run's folder and results.
        masks: The masks of its stages; default: those in its folder. A run without condensation has none.
        dataset: Its training set, for the contact sheets of the last mask.

    Returns:
        The files: `curves.png`; with masks `stages.png`, `values.png` and, from two stages on, `ranks.png`; with masks
        and a data set `most_valuable.png` and `least_valuable.png`.
    """
    run_folder = Path(run_folder)
    if masks is None:
        masks = [KnowledgeMask.from_pretrained(path) for path in (run_folder / STAGES_FOLDER).glob("stage-*")]
    figures = {"curves": plot_curves(results)}
    if masks:
        figures |= {"stages": plot_stages(masks), "values": plot_values(masks)}
    if len(masks) > 1:
        figures["ranks"] = plot_ranks(masks)
    if masks and dataset is not None:
        last = in_order(masks)[-1]
        figures |= {f"{end}_valuable": contact_sheet(dataset, last, which=end) for end in ("most", "least")}
    paths = {run_folder / "plots" / f"{name}.png": figure for name, figure in figures.items()}
    for path, figure in paths.items():
        save_figure(figure, path)
    return list(paths)


def contact_sheet(dataset: KnowledgeDataset, mask: KnowledgeMask, num: int = 32, which: str = "most") -> Figure:
    """Show the images of the most or the least valuable points, each with its class and its value.

    Args:
        dataset, mask: A training set and its mask; images that it has mixed for good are shown mixed.
        num: Number of images, at most the number of points.
        which: `"most"` valuable points, the best first, or the `"least"` valuable, the last first.

    Raises:
        ValueError: When the mask is about another data set, or an argument is out of its range.
    """
    mask.check(dataset.identity, dataset.labels)
    if which not in ("most", "least"):
        raise ValueError(f"which is {which!r}: ask for the 'most' or the 'least' valuable points.")
    order = np.argsort(point_ranks(mask))
    points = (order if which == "most" else order[::-1])[: whole_number("num", num)]
    columns = min(8, len(points))
    rows = -(-len(points) // columns)
    figure = new_figure(max(1.35 * columns, 6.5), 1.75 * rows + 0.6)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, point in zip(grid, points.tolist(), strict=False):
        pixels = dataset.image(point)
        axes.imshow(pixels, interpolation="nearest" if max(pixels.shape) < 96 else "antialiased")
        name, value = dataset.class_names[int(dataset.labels[point])].partition(",")[0], float(mask.value[point])
        name = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
        text = f"{name}\n{value:.2g}" if abs(value) < 0.01 else f"{name}\n{value:.2f}"
        axes.text(0.5, -0.05, text, transform=axes.transAxes, ha="center", va="top", fontsize=9, parse_math=False)
    total = f"{mask.num_points:,} points at stage {mask.stage}"
    set_title(figure, f"The {len(points)} {which} valuable of {total}, with class and value")
    return figure
