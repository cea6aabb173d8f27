"""`hf-kcd card`: write the card of a finished run, out of its results and its recipe."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..artifacts.cards import write_card
from ..artifacts.run_folder import pictures_of, read_run
from ..reporting import student_card


def main(arguments: Sequence[str]) -> None:
    """Run the command with the words behind its name."""
    parser = argparse.ArgumentParser(prog="hf-kcd card", description=__doc__.split(": ")[1], allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", help="folder of a finished run; its results.json is enough")
    parser.add_argument("--output", metavar="FILE", help="where to write; RUN/README.md without it")
    parser.add_argument("--repo", metavar="USER/NAME", help="repository that the weights are published in")
    parser.add_argument("--mask_repo", metavar="USER/NAME", help="repository of the knowledge mask, to be linked")
    parser.add_argument("--teacher_repo", metavar="USER/NAME", help="repository of the teacher, to be linked")
    parser.add_argument("--license", metavar="NAME", help="licence of the weights, e.g. apache-2.0")
    options = parser.parse_args(arguments)

    folder = Path(options.run)
    output = Path(options.output) if options.output else folder / "README.md"
    results, recipe = read_run(folder)
    card = student_card(
        results,
        recipe,
        # A picture is shown where it lies beside the card.
        pictures_of(output.parent),
        repo_id=options.repo,
        mask_repo=options.mask_repo,
        teacher_repo=options.teacher_repo,
        license=options.license,
    )
    write_card(output, card)
    print(output)
