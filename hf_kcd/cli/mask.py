"""`hf-kcd mask`: show what a knowledge mask says, or how far several are from each other."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..artifacts.run_folder import MASK_FOLDER
from ..condensation import KnowledgeMask
from ..reporting import describe_mask, mask_table, plot_hamming, save_figure


def main(arguments: Sequence[str]) -> None:
    """Run the command with the words behind its name."""
    parser = argparse.ArgumentParser(prog="hf-kcd mask", description=__doc__.split(": ")[1], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="show | compare")
    what = "a mask's folder, a run's folder, or a Hub id"
    show = commands.add_parser("show", help="what a mask keeps, mixes and values", allow_abbrev=False)
    show.add_argument("mask", help=what)
    compare = commands.add_parser(
        "compare", help="in how many points masks of one data set differ (Fig. 3c)", allow_abbrev=False
    )
    compare.add_argument("masks", nargs="+", help=what)
    compare.add_argument("--plot", metavar="FILE", help="draw the comparison as a PNG")
    options = parser.parse_args(arguments)

    if options.command == "show":
        print(describe_mask(load_mask(options.mask)))
        return
    masks = {path: load_mask(path) for path in options.masks}
    print(mask_table(masks))
    print("\nHamming distances; in brackets, what masks drawn at random would have.")
    if options.plot is not None:
        save_figure(plot_hamming(list(masks), list(masks.values())), options.plot)
        print(f"Drawn: {options.plot}")


def load_mask(path: str) -> KnowledgeMask:
    """Load a mask from its folder, from the folder of the run that made it, or from the Hub."""
    inside = Path(path) / MASK_FOLDER
    return KnowledgeMask.from_pretrained(inside if inside.is_dir() else path)
