"""`hf-kcd distill`: train a student with a teacher, and condense the knowledge with --condense."""

import shlex
from collections.abc import Sequence

from ..reporting import describe_run
from .chain import run_chain
from .options import say
from .recipe import read_recipe


def main(arguments: Sequence[str]) -> None:
    """Run the command with the words behind its name."""
    recipe = read_recipe("distill", arguments)
    results = run_chain(recipe, command=f"hf-kcd distill {shlex.join(arguments)}")
    say(describe_run(results, recipe.args.output_dir))
