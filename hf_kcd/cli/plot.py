"""`hf-kcd plot`: draw the plots of a run again, or several runs in one, published ones too."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..artifacts.run_folder import RECIPE_NAME
from ..data import KnowledgeDataset
from ..hub.download import fetch_files
from ..reporting import group_results, plot_curves, read_results, results_table, save_figure
from .recipe import read_recipe
from .run import RESULTS_NAME, draw_plots, load_run_data


def main(arguments: Sequence[str]) -> None:
    """Run the command with the words behind its name."""
    parser = argparse.ArgumentParser(prog="hf-kcd plot", description=__doc__.split(": ")[1], allow_abbrev=False)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a finished run, or Hub id of a student")
    parser.add_argument(
        "--output", metavar="FILE", default="comparison.png", help="the plot of several runs [%(default)s]"
    )
    options = parser.parse_args(arguments)

    results = [read_results(_results_file(run)) for run in options.runs]
    if len(results) == 1 and Path(options.runs[0]).is_dir():
        folder = Path(options.runs[0])
        for path in draw_plots(folder, results[0], _training_set(folder)):
            print(path)
        return
    groups = group_results(results)
    # Seeds of one experiment share its name, and so its colour.
    names = {id(result): name for name, group in groups.items() for result in group}
    save_figure(plot_curves(results, [names[id(result)] for result in results]), options.output)
    print(results_table(groups))
    print(f"\nDrawn: {options.output}")


def _results_file(run: str) -> Path:
    if Path(run).is_dir():
        return Path(run) / RESULTS_NAME
    try:
        return fetch_files(run, [RESULTS_NAME]) / RESULTS_NAME
    except (OSError, ValueError) as error:
        raise type(error)(f"{run} is no folder here, and as a Hub id: {error}") from error


def _training_set(folder: Path) -> KnowledgeDataset | None:
    """Load the run's images for the contact sheets; without them the other plots are drawn."""
    recipe = folder / RECIPE_NAME
    try:
        config = read_recipe("distill", ["--config", str(recipe), "--output_dir", str(folder)]).config
        data = load_run_data(config)
    except OSError as error:
        print(f"No contact sheets: {error}")
        return None
    return KnowledgeDataset(
        data.train, data.preprocessing, image_column=config.image_column, label_column=config.label_column
    )
