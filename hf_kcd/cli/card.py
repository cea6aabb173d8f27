"""`hf-kcd card`: write the model card of a finished run from its results and recipe."""

from collections.abc import Sequence
from pathlib import Path

from ..artifacts.cards import write_card
from ..artifacts.run_folder import pictures_of, read_run
from ..reporting import student_card
from .options import CommandParser


def main(arguments: Sequence[str]) -> None:
    """Run the command with the words behind its name."""
    parser = CommandParser(__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a finished run; its results.json is enough")
    parser.add_argument("--output", metavar="FILE", help="file to write [RUN/README.md]")
    parser.add_argument("--repo", metavar="USER/NAME", help="repository on the Hub that has the weights")
    parser.add_argument("--mask_repo", metavar="USER/NAME", help="repository of the knowledge mask, to link")
    parser.add_argument("--teacher_repo", metavar="USER/NAME", help="repository of the teacher, to link")
    parser.add_argument("--license", metavar="NAME", help="license of the weights, e.g. apache-2.0")
    options = parser.parse_args(arguments)

    folder = Path(options.run)
    output = Path(options.output) if options.output else folder / "README.md"
    results, recipe = read_run(folder)
    repositories = {"repo_id": options.repo, "mask_repo": options.mask_repo, "teacher_repo": options.teacher_repo}
    # The card shows the pictures beside it.
    card = student_card(results, recipe, pictures_of(output.parent), license=options.license, **repositories)
    write_card(output, card)
    print(output)
