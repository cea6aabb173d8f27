"""`hf-kcd plot`: redraw the plots of a run, or draw several runs in one plot, published runs included."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from ..artifacts.run_folder import RESULTS_NAME, read_run
from ..data import KnowledgeDataset
from ..hub.download import fetch_files
from ..reporting import group_results, plot_curves, read_results, results_table, save_figure, write_run_plots
from .data import DataConfig, add_data_options, data_of, refuse_data_options
from .options import CommandParser
from .recipe import RunConfig
from .run import load_run_data


def main(arguments: Sequence[str]) -> None:
    """Run the command with the words behind its name."""
    parser = CommandParser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a finished run, or Hub id of a student")
    help_ = "file for the plot of several runs [%(default)s]"
    parser.add_argument("--output", metavar="FILE", default="comparison.png", help=help_)
    add_data_options(parser, recipe=True)
    options = parser.parse_args(arguments)

    results = [read_results(_results_file(run)) for run in options.runs]
    if len(results) == 1 and Path(options.runs[0]).is_dir():
        folder = Path(options.runs[0])
        parser.refuse_unread(options, ["output"], f"the plots of one run go to {folder / 'plots'}")
        for path in write_run_plots(folder, results[0], dataset=_training_set(folder, data_of(options))):
            print(path)
        return
    refuse_data_options(options, "they name the data of one run, for its contact sheets")
    groups = group_results(results)
    # Seeds of one experiment share its name, and so its color.
    names = {id(result): name for name, group in groups.items() for result in group}
    save_figure(plot_curves(results, [names[id(result)] for result in results]), options.output)
    print(f"{results_table(groups)}\n\nDrawn: {options.output}")


def _results_file(run: str) -> Path:
    if Path(run).is_dir():
        return Path(run) / RESULTS_NAME
    try:
        return fetch_files(run, [RESULTS_NAME]) / RESULTS_NAME
    except (OSError, ValueError) as error:
        raise type(error)(f"{run} is not a folder here, and as a Hub id: {error}") from error


def _training_set(folder: Path, given: dict[str, str]) -> KnowledgeDataset | None:
    """Load the run's images for the contact sheets; without them, the other plots are drawn."""
    _, recipe = read_run(folder)
    # Only what names the data: a look at a run imports no module that its recipe asks for.
    names = {*(one.name for one in fields(DataConfig)), "train_points"}
    config = RunConfig(**{name: value for name, value in (recipe or {}).items() if name in names} | given)
    try:
        if recipe is None and "data" not in given:
            raise FileNotFoundError(f"{folder} has no recipe, which names the data.")
        data = load_run_data(config)
    except OSError as error:
        print(f"No contact sheets: {error}")
        return None
    return KnowledgeDataset(data.train, data.preprocessing, **config.columns)
