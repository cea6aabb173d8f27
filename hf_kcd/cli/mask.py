"""`hf-kcd mask`: show what a knowledge mask keeps, mixes and values, or compare several masks."""

from collections.abc import Sequence
from pathlib import Path

from ..artifacts.run_folder import MASK_FOLDER
from ..condensation import KnowledgeMask
from ..reporting import describe_mask, mask_table, plot_hamming, save_figure
from .options import CommandParser

_EPILOG = """examples:
  hf-kcd mask show runs/first
  hf-kcd mask compare runs/first runs/second --plot masks.png    in how many points they differ (Fig. 3c of the paper)"""


def main(arguments: Sequence[str]) -> None:
    """Run the command with the words behind its name."""
    parser = CommandParser(__doc__, _EPILOG)
    parser.add_argument("action", choices=("show", "compare"), help="show each mask, or compare two or more")
    parser.add_argument("masks", nargs="+", metavar="MASK", help="folder of a mask or of a run, or a Hub id")
    parser.add_argument("--plot", metavar="FILE", help="draw the comparison as a PNG")
    options = parser.parse_args(arguments)

    if options.action == "show":
        parser.refuse_unread(options, ["plot"], "it draws a comparison (hf-kcd mask compare)")
    masks = {path: _load_mask(path) for path in options.masks}
    if options.action == "show":
        print("\n\n".join(map(describe_mask, masks.values())))
        return
    print(mask_table(masks))
    print("\nHamming distances; in brackets, the distance of random masks of the same sizes.")
    if options.plot is not None:
        save_figure(plot_hamming(list(masks), list(masks.values())), options.plot)
        print(f"Drawn: {options.plot}")


def _load_mask(path: str) -> KnowledgeMask:
    inside = Path(path) / MASK_FOLDER
    return KnowledgeMask.from_pretrained(inside if inside.is_dir() else path)
