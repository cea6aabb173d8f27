"""Tables of plain text or Markdown, and the table of results."""

import statistics
from collections.abc import Callable, Mapping, Sequence

from ..artifacts.results import Results

NOTHING = "–"


def results_table(groups: Mapping[str, Sequence[Results]], *, markdown: bool = False) -> str:
    """Write one row per experiment: top-1 over its seeds, its cost, its seconds.

    Top-1 is the mean ± sample standard deviation over the runs of a group: after the last epoch, and at the best epoch,
    which was chosen on the same data. C is relative to training on all points in every epoch.

    Args:
        groups: The runs of every experiment, by name (`group_results`); without any, a ValueError.
        markdown: Write a Markdown table instead of aligned text.
    """
    if not groups or not all(groups.values()):
        raise ValueError("A table needs at least one run for every name: train one, or leave the name out.")
    header = ["run", "top-1 % (last)", "top-1 % (best)", "C planned %", "C paid %", "seconds", "seeds"]
    rows = [
        [
            name,
            _spread(runs, lambda run: run["accuracy"] and run["accuracy"]["last"]["top1"]),
            _spread(runs, lambda run: run["accuracy"] and run["accuracy"]["best"]["top1"]),
            f"{statistics.fmean(100 * run['cost']['planned'] for run in runs):.1f}",
            f"{statistics.fmean(100 * run['cost']['paid'] for run in runs):.1f}",
            f"{statistics.fmean(run['seconds']['training'] for run in runs):.1f}",
            _seeds([run["seed"] for run in runs]),
        ]
        for name, runs in groups.items()
    ]
    return format_table(header, rows, markdown)


def format_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool = False, text_columns: int = 1
) -> str:
    """Lay out a table, aligned or as Markdown, whose first `text_columns` are text and whose others are numbers."""
    if markdown:
        # A pipe in a name would open another column.
        header, rows = ([[cell.replace("|", "\\|") for cell in row] for row in part] for part in ([header], rows))
        rules = [["---"] * text_columns + ["---:"] * (len(header[0]) - text_columns)]
        return "\n".join(f"| {' | '.join(row)} |" for row in [*header, *rules, *rows])
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    sides = ["<"] * text_columns + [">"] * (len(widths) - text_columns)
    return "\n".join(
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True))
        for row in [header, ["-" * width for width in widths], *rows]
    )


def _spread(runs: Sequence[Results], read: Callable[[Results], float | None]) -> str:
    values = [value for run in runs if (value := read(run)) is not None]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}" if values else NOTHING


def _seeds(seeds: Sequence[int]) -> str:
    # A run repeated with one seed says nothing about the spread over seeds.
    return f"{len(set(seeds))} ({len(seeds)} runs)" if len(set(seeds)) < len(seeds) else str(len(seeds))
