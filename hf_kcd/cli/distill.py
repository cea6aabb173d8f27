"""`hf-kcd distill`: train a student under a teacher, with condensation where it is asked for."""

import shlex
from collections.abc import Sequence

from .chain import run_chain
from .recipe import read_recipe
from .run import say, summary


def main(arguments: Sequence[str]) -> None:
    """Run the command with the words behind its name."""
    recipe = read_recipe("distill", arguments)
    results = run_chain(recipe, command=f"hf-kcd distill {shlex.join(arguments)}")
    say(summary(results, recipe.args.output_dir))
