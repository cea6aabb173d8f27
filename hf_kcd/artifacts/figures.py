"""The style of all figures. Each figure stands alone: nothing here needs a display or touches pyplot's state."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .files import atomic_file

# The colors of Okabe and Ito, distinct for every kind of color vision; without yellow, which is too faint for a line.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
INK, GRAY, LIGHT = "#222222", "#8A8A8A", "#DDDDDD"
_DPI = 150


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure; width and height are in inches."""
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def set_title(figure: Figure, text: str) -> None:
    """Write a title over a figure, wrapped to its width."""
    # A bold character of 12 points is about an eighth of an inch wide.
    text = textwrap.fill(plain(text), int(8.5 * figure.get_figwidth()))
    figure.suptitle(text, x=0.012, ha="left", fontsize=12, color=INK, weight="bold")


def set_labels(axes: Axes, vertical: str, horizontal: str = "") -> None:
    """Label both axes and give them their grid."""
    axes.set_ylabel(vertical, fontsize=10, color=INK)
    axes.set_xlabel(horizontal, fontsize=10, color=INK)
    axes.tick_params(labelsize=9, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=LIGHT, linewidth=0.6)
    axes.set_axisbelow(True)


def legend_above(axes: Axes, columns: int, handles: Sequence[Artist] | None = None) -> None:
    """Put the legend on top of the axes, on the left."""
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    axes.legend(handles=handles, frameon=False, fontsize=9, ncols=columns, **place)


def plain(text: str) -> str:
    """Escape dollar signs, so that matplotlib does not read the text between two of them as a formula."""
    return text.replace("$", r"\$")


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI)
