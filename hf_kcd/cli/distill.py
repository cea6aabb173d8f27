"""`hf-kcd distill`: train a student with a teacher, and condense the knowledge with --condense."""

from collections.abc import Sequence

from .chain import run_chain
from .recipe import read_recipe


def main(arguments: Sequence[str]) -> None:
    """Run the command with the words behind its name."""
    run_chain(read_recipe("distill", arguments))
