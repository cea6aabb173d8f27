"""One run: its end in a few lines of text, and its plots."""

from pathlib import Path

from ..artifacts.results import Results
from ..artifacts.run_folder import STAGES_FOLDER
from ..condensation import KnowledgeMask
from ..data import KnowledgeDataset
from .run_plots import write_run_plots


def describe_run(results: Results, folder: str | Path) -> str:
    """Describe the end of a run in a few lines: accuracy, cost, time, and where everything is.

    Args:
        results: The results of the run.
        folder: Its folder.
    """
    lines = [f"\n{results['student']} on {results['data']}, method {results['method']}"]
    if results["accuracy"] is not None:
        last, best = results["accuracy"]["last"], results["accuracy"]["best"]
        lines.append(
            f"  accuracy  top-1 {last['top1']:.2f} %, top-5 {last['top5']:.2f} % after the last epoch "
            f"(best top-1 {best['top1']:.2f} %, epoch {best['epoch']:g})"
        )
    cost = results["cost"]
    lines.append(f"  cost      {cost['paid']:.2%} of the points of a whole training (planned {cost['planned']:.2%})")
    if cost.get("step") not in (None, 1.0):
        lines.append(
            f"            {cost['paid'] * cost['step']:.2%} of its computation: a step costs {cost['step']:.2f} steps of KD"
        )
    lines += [f"  time      {results['seconds']['training']:.1f} s of training", f"  folder    {folder}"]
    for name, accuracy in results["networks"].items():
        reached = "" if accuracy is None else f", top-1 {accuracy['last']['top1']:.2f} %"
        lines.append(f"  beside it {Path(folder) / name}{reached}")
    return "\n".join(lines)


def draw_run(folder: Path, results: Results, dataset: KnowledgeDataset | None = None) -> list[Path]:
    """Draw the plots of a finished run into its folder, with the masks of its stages.

    Args:
        folder: The folder of the run.
        results: Its results.
        dataset: Its training set, for the contact sheets.

    Returns:
        The files.
    """
    masks = [KnowledgeMask.from_pretrained(stage) for stage in sorted((folder / STAGES_FOLDER).glob("stage-*"))]
    return write_run_plots(folder, results, masks, dataset)
