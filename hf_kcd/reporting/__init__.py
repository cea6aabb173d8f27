"""What people look at: plots, results of runs, comparisons of masks and of results."""

from ..artifacts.results import Results, group_results, read_results, run_label, write_results
from .compare import NOTHING, chance_distance, compare_masks, describe_mask, format_table, mask_table, results_table
from .plots import (
    contact_sheet,
    plot_curves,
    plot_hamming,
    plot_ranks,
    plot_stages,
    plot_values,
    save_figure,
    write_run_plots,
)
from .student_card import student_card

__all__ = [
    "NOTHING",
    "Results",
    "chance_distance",
    "compare_masks",
    "contact_sheet",
    "describe_mask",
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
