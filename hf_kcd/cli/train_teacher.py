"""`hf-kcd train-teacher`: train a network alone."""

import shlex
from collections.abc import Sequence

from ..reporting import describe_run
from .options import say
from .recipe import read_recipe
from .run import run


def main(arguments: Sequence[str]) -> None:
    """Run the command with the words behind its name."""
    recipe = read_recipe("train-teacher", arguments, method="ce")
    if recipe.config.teacher is not None:
        raise ValueError("A teacher is trained alone: leave teacher out, or use hf-kcd distill.")
    results = run(recipe, command=f"hf-kcd train-teacher {shlex.join(arguments)}")
    say(describe_run(results, recipe.args.output_dir))
