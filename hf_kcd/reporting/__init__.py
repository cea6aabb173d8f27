"""What people look at: plots, results of runs, comparisons of masks and of results, cards."""

from ..artifacts.figures import save_figure
from ..artifacts.results import Results, group_results, read_results, run_label, write_results
from .compare import chance_distance, compare_masks, describe_mask, mask_table
from .curves import plot_curves
from .mask_plots import plot_hamming, plot_ranks, plot_stages, plot_values
from .run import contact_sheet, describe_run, write_run_plots
from .student_card import student_card
from .tables import NOTHING, format_table, results_table

__all__ = [
    "NOTHING",
    "Results",
    "chance_distance",
    "compare_masks",
    "contact_sheet",
    "describe_mask",
    "describe_run",
    "format_table",
    "group_results",
    "mask_table",
    "plot_curves",
    "plot_hamming",
    "plot_ranks",
    "plot_stages",
    "plot_values",
    "read_results",
    "results_table",
    "run_label",
    "save_figure",
    "student_card",
    "write_results",
    "write_run_plots",
]
