"""`hf-kcd push`: publish the student of a finished run on the Hub, and its knowledge mask."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import datasets
import huggingface_hub
from huggingface_hub.utils import disable_progress_bars

from ..artifacts.cards import format_size
from ..artifacts.classes import class_positions
from ..artifacts.files import atomic_folder, read_json, refuse_links
from ..artifacts.run_folder import MASK_FOLDER
from ..condensation import KnowledgeMask
from ..data import SoftLabels
from ..hub import check_folder, hub_errors, upload
from ..publishing import write_student_repository
from .data import add_data_options, data_words, refuse_data_options
from .options import CommandParser, RunFailed, refuse_full
from .soft_labels import soft_labels_of_run

_EPILOG = """examples:
  hf-kcd push runs/first me/resnet8-cifar100                       the student, and its mask to me/resnet8-cifar100-mask
  hf-kcd push runs/first me/resnet8-cifar100 --with_soft_labels    … and the teacher's answers for the mask's points
  hf-kcd push runs/first me/resnet8-cifar100 --dry_run out         write and list what would be uploaded
  hf-kcd push runs/first/mask me/my-mask --mask_only

Log in first with `hf auth login`, or set HF_TOKEN. Each repository gets one commit, or stays as it was."""


class _Upload(NamedTuple):
    what: str
    repo_id: str
    repo_type: str
    folder: Path


def main(arguments: Sequence[str]) -> None:
    """Run the command with the words behind its name."""
    options = _parse(arguments)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
        disable_progress_bars()
    run_folder = Path(options.run_folder)
    mask = _find_mask(run_folder, options)
    if options.mask_repo is None:
        options.mask_repo = options.repo if options.mask_only else f"{options.repo}-mask"
    if options.dry_run is None:
        # Before the soft labels, which can take hours.
        with hub_errors(options.repo, "dataset" if options.mask_only else "model", None, "written to"):
            print(f"Logged in as {huggingface_hub.whoami()['name']}.")
    soft_labels = _make_soft_labels(run_folder, mask, options) if options.with_soft_labels else None
    with _staging(options.dry_run) as folder:
        uploads = _write(Path(folder), run_folder, mask, soft_labels, options)
        for part in uploads:
            _announce(part, options)
        if options.dry_run is None:
            _upload(uploads, options)
            return
    print(f"\nWritten to {options.dry_run}; nothing was uploaded.")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(__doc__, _EPILOG)
    parser.add_argument("run_folder", metavar="RUN_FOLDER", help="folder of a finished run, or of a mask")
    parser.add_argument("repo", metavar="REPO", help="user/name of the student (of the mask if --mask_only)")
    parser.add_argument("--mask_repo", metavar="ID", help="the mask's repository [REPO-mask]")
    parser.add_argument("--teacher_repo", metavar="ID", help="the teacher's repository, to link [from the recipe]")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--student_only", action="store_true", help="publish no mask")
    one.add_argument("--mask_only", action="store_true", help="publish no student")
    parser.add_argument(
        "--private", action="store_true", help="make new repositories private [public, or the account's default]"
    )
    parser.add_argument("--overwrite", action="store_true", help="write over a repository that hf-kcd did not write")
    parser.add_argument(
        "--no_pictures", action="store_true", help="leave out plots, and contact sheets of training images"
    )
    parser.add_argument("--revision", metavar="R", help="branch to commit to, created if missing [main]")
    parser.add_argument("--license", metavar="L", help="license for the cards, in the Hub's spelling: mit, …")
    parser.add_argument("--dry_run", metavar="FOLDER", help="write the repositories to FOLDER and upload nothing")
    soft = "store the teacher's answers for the mask's points, so that others can train without the teacher"
    parser.add_argument("--with_soft_labels", action="store_true", help=soft)
    for name, default, text in (
        ("views", 4, "views of each point"),
        ("top_k", 0, "classes to store, 0 for all"),
        ("bits", 8, "bits of a logit, 8 or 16"),
    ):
        help_ = f"soft labels: {text} [%(default)s]"
        parser.add_argument(f"--{name}", type=int, metavar="N", default=default, help=help_)
    add_data_options(parser, recipe=True)
    options = parser.parse_args(arguments)
    if not options.with_soft_labels:
        refuse_data_options(options, "only soft labels need the data (--with_soft_labels)")
        parser.refuse_unread(options, ("views", "top_k", "bits"), "no soft labels are made (--with_soft_labels)")
    if options.mask_only and options.mask_repo is not None:
        raise ValueError("--mask_only pushes the mask to REPO itself: leave --mask_repo out.")
    for repo_id in filter(None, (options.repo, options.mask_repo)):
        with hub_errors(repo_id, "model", None, "written to"):
            huggingface_hub.utils.validate_repo_id(repo_id)
        if "/" not in repo_id:
            raise ValueError(f"{repo_id} names no user: give user/name, as in the repository's address.")
    return options


def _find_mask(run_folder: Path, options: argparse.Namespace) -> KnowledgeMask | None:
    """Load the mask to publish; None for the student alone."""
    if not run_folder.is_dir():
        raise FileNotFoundError(f"{run_folder} is not a folder. Give the folder of a finished run.")
    alone = (run_folder / KnowledgeMask.CONFIG_FILE).is_file()
    if alone and not options.mask_only:
        raise ValueError(f"{run_folder} holds a mask and no student: add --mask_only, or give the run's folder.")
    folder = run_folder if alone else run_folder / MASK_FOLDER
    refuse_links(
        folder.parent, [f"{folder.name}/{name}" for name in (KnowledgeMask.CONFIG_FILE, KnowledgeMask.TENSOR_FILE)]
    )
    if folder.is_dir() and not options.student_only:
        mask = KnowledgeMask.from_pretrained(folder)
        if not options.mask_only and (run_folder / "config.json").is_file():
            names = read_json(run_folder / "config.json").get("label_names")
            class_positions(names or None, mask.dataset.class_names, "student", "knowledge mask")
        return mask
    for option in ("mask_only", "with_soft_labels", "mask_repo"):
        if getattr(options, option) and options.student_only:
            raise ValueError(f"--student_only publishes no mask: leave it or --{option} out.")
        if getattr(options, option):
            raise FileNotFoundError(f"{run_folder} has no mask: leave --{option} out, or give a run that condensed.")
    return None


def _make_soft_labels(run_folder: Path, mask: KnowledgeMask, options: argparse.Namespace) -> SoftLabels:
    num_points, num_classes = len(mask.kept), len(mask.dataset.class_names)
    views, top_k, bits = options.views, options.top_k, options.bits
    size = format_size(SoftLabels.num_bytes(num_points, views, num_classes, top_k, bits))
    stored = f"the {top_k} highest of {num_classes}" if 0 < top_k < num_classes else f"all {num_classes}"
    print(f"Soft labels: {views} views of {num_points:,} points, {stored} classes, {bits} bits: {size}.", end=" ")
    print(f"The teacher answers {views * num_points:,} images first.", flush=True)
    return soft_labels_of_run(run_folder, num_views=views, top_k=top_k, bits=bits, data=data_words(options))


def _staging(dry_run: str | None) -> AbstractContextManager[str | Path]:
    if dry_run is None:
        return tempfile.TemporaryDirectory()
    refuse_full(Path(dry_run), "--dry_run")
    return atomic_folder(dry_run)


def _write(
    folder: Path, run: Path, mask: KnowledgeMask | None, soft_labels: SoftLabels | None, options: argparse.Namespace
) -> list[_Upload]:
    """Write each repository into a folder of its own."""
    uploads = []
    about = {"teacher_repo": options.teacher_repo, "license": options.license, "pictures": not options.no_pictures}
    if not options.mask_only:
        uploads.append(_Upload("Student", options.repo, "model", folder / "student"))
        # The recipe names the mask that a run was trained on.
        mask_repo = None if mask is None else options.mask_repo
        write_student_repository(folder / "student", run, repo_id=options.repo, mask_repo=mask_repo, **about)
    if mask is not None:
        uploads.append(_Upload("Mask", options.mask_repo, "dataset", folder / "mask"))
        about |= {"repo_id": options.mask_repo, "student_repo": None if options.mask_only else options.repo}
        run_folder = None if (run / KnowledgeMask.CONFIG_FILE).is_file() else run
        mask.write_repository(folder / "mask", run_folder=run_folder, soft_labels=soft_labels, **about)
    return uploads


def _announce(part: _Upload, options: argparse.Namespace) -> None:
    files = check_folder(part.folder)
    kind = {"model": "model", "dataset": "data set"}[part.repo_type]
    private = ", private" if options.private else ", public unless your account's default is private"
    revision = f", revision {options.revision}" if options.revision else ""
    total = sum(size for _, size in files)
    print(f"\n{part.what} → {part.repo_id} ({kind}{private}{revision}): {len(files)} files, {format_size(total)}")
    for name, size in files:
        print(f"  {format_size(size):>10}  {name}")


def _upload(uploads: Sequence[_Upload], options: argparse.Namespace) -> None:
    print()
    about = {"private": options.private or None, "revision": options.revision, "overwrite": options.overwrite}
    for number, part in enumerate(uploads):
        print(f"Uploading {part.repo_id} ({number + 1} of {len(uploads)}) …", flush=True)
        message = f"Upload {'student' if part.repo_type == 'model' else 'knowledge mask'}"
        try:
            commit = upload(part.folder, part.repo_id, repo_type=part.repo_type, commit_message=message, **about)
        except ConnectionError as error:
            done = "".join(f"{one.repo_id} is uploaded, " for one in uploads[:number])
            again = "run the same command again to go on."
            raise RunFailed(f"{error} ({done}{part.repo_id} is unchanged; {again})") from error
        print(f"  {commit.repo_url}")
