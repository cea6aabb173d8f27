"""`hf-kcd push`: publish the student of a finished run on the Hub, and the knowledge mask that it made."""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import datasets
import huggingface_hub
from huggingface_hub.utils import disable_progress_bars

from ..artifacts.cards import format_size
from ..artifacts.files import atomic_folder
from ..artifacts.run_folder import MASK_FOLDER
from ..condensation import KnowledgeMask
from ..data import SoftLabels
from ..hub import check_folder, upload
from ..hub.download import hub_errors
from ..publishing import write_student_repository
from .run import RunFailed
from .soft_labels import soft_labels_of_run

_EPILOG = """examples:
  hf-kcd push runs/first me/resnet8-cifar100                       the student, and its mask to me/resnet8-cifar100-mask
  hf-kcd push runs/first me/resnet8-cifar100 --with-soft-labels    … and the teacher's answers for the mask's points
  hf-kcd push runs/first me/resnet8-cifar100 --dry_run out         writes what would go up, and lists it
  hf-kcd push runs/first/mask me/my-mask --mask_only

The login is that of `hf auth login`, or HF_TOKEN. Each repository receives one commit, or is left as it was."""


@dataclass(frozen=True)
class _Upload:
    """A repository and the folder that goes there."""

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
    if options.dry_run is None:
        # Before anything is made: soft labels can take hours.
        with hub_errors(options.repo, "dataset" if options.mask_only else "model", None, "written to"):
            print(f"Logged in as {huggingface_hub.whoami()['name']}.")
    soft_labels = _make_soft_labels(run_folder, mask, options) if options.with_soft_labels else None
    with _staging(options.dry_run) as folder:
        uploads = _write(folder, run_folder, mask, soft_labels, options)
        for part in uploads:
            _announce(part, options)
        if options.dry_run is not None:
            print(f"\nWritten to {options.dry_run}; nothing was uploaded.")
            return
        _upload(uploads, options)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="hf-kcd push",
        description=__doc__.split(": ")[1],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run_folder", metavar="RUN_FOLDER", help="folder of a finished run, or of a mask")
    parser.add_argument(
        "repo", metavar="REPO", help="user/name of the student's repository; of the mask's with --mask_only"
    )
    parser.add_argument("--mask_repo", metavar="ID", help="the mask's repository [REPO-mask]")
    parser.add_argument("--teacher_repo", metavar="ID", help="the teacher's, to be linked [what the recipe names]")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--student_only", action="store_true", help="leave the mask here")
    one.add_argument("--mask_only", action="store_true", help="leave the student here")
    parser.add_argument("--private", action="store_true", help="make new repositories private")
    parser.add_argument("--revision", metavar="R", help="branch to commit to, made where there is none [main]")
    parser.add_argument(
        "--license", metavar="L", help="licence for the cards, as the Hub has them: apache-2.0, mit, …"
    )
    parser.add_argument(
        "--dry_run", metavar="FOLDER", help="write there what would go up, list it, and upload nothing"
    )
    parser.add_argument(
        "--with-soft-labels",
        "--with_soft_labels",
        action="store_true",
        help="let the run's teacher answer the mask's points, so that a student learns without the teacher",
    )
    parser.add_argument(
        "--views", type=int, metavar="N", default=4, help="soft labels: views of every point [%(default)s]"
    )
    parser.add_argument(
        "--top_k", type=int, metavar="K", default=0, help="soft labels: classes that are stored, 0 for all [0]"
    )
    parser.add_argument(
        "--bits", type=int, metavar="B", default=8, help="soft labels: bits of a logit, 8 or 16 [%(default)s]"
    )
    options = parser.parse_args(arguments)
    if options.mask_only and options.mask_repo is not None:
        raise ValueError("--mask_only pushes the mask to REPO itself: leave --mask_repo out.")
    if options.mask_repo is None:
        options.mask_repo = options.repo if options.mask_only else f"{options.repo}-mask"
    for repo_id in (options.repo, options.mask_repo):
        with hub_errors(repo_id, "model", None, "written to"):
            huggingface_hub.utils.validate_repo_id(repo_id)
        if "/" not in repo_id:
            raise ValueError(f"{repo_id} names no user: give user/name, as it stands in the repository's address.")
    return options


def _find_mask(run_folder: Path, options: argparse.Namespace) -> KnowledgeMask | None:
    """Load the mask that is to be pushed; None where only the student is."""
    if not run_folder.is_dir():
        raise FileNotFoundError(f"{run_folder} is no folder. Give that of a finished run.")
    alone = (run_folder / KnowledgeMask.CONFIG_FILE).is_file()
    if alone and not options.mask_only:
        raise ValueError(f"{run_folder} holds a mask and no student: add --mask_only, or give the run's folder.")
    folder = run_folder if alone else run_folder / MASK_FOLDER
    if options.student_only or not folder.is_dir():
        for option in ("mask_only", "with_soft_labels"):
            if getattr(options, option):
                raise FileNotFoundError(
                    f"{run_folder} has no mask to push: leave --{option} out, or give the folder of a run that condensed."
                )
        return None
    return KnowledgeMask.from_pretrained(folder)


def _make_soft_labels(run_folder: Path, mask: KnowledgeMask, options: argparse.Namespace) -> SoftLabels:
    num_points, num_classes = len(mask.kept), len(mask.dataset.class_names)
    size = SoftLabels.num_bytes(num_points, options.views, num_classes, options.top_k, options.bits)
    stored = (
        f"the {options.top_k} highest of {num_classes}" if 0 < options.top_k < num_classes else f"all {num_classes}"
    )
    print(
        f"Soft labels: {options.views} views of {num_points:,} points, {stored} classes, {options.bits} bits: "
        f"{format_size(size)}. The teacher answers {options.views * num_points:,} images first.",
        flush=True,
    )
    return soft_labels_of_run(run_folder, num_views=options.views, top_k=options.top_k, bits=options.bits)


@contextmanager
def _staging(dry_run: str | None) -> Iterator[Path]:
    if dry_run is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    folder = Path(dry_run)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty: remove it, or choose another --dry_run.")
    with atomic_folder(folder) as temporary:
        yield temporary


def _write(
    folder: Path,
    run_folder: Path,
    mask: KnowledgeMask | None,
    soft_labels: SoftLabels | None,
    options: argparse.Namespace,
) -> list[_Upload]:
    """Write what goes to each repository into a folder of its own."""
    uploads = []
    about = {"teacher_repo": options.teacher_repo, "license": options.license}
    if not options.mask_only:
        uploads.append(_Upload("Student", options.repo, "model", folder / "student"))
        # One that the run was trained on is in its recipe.
        mask_repo = None if mask is None else options.mask_repo
        write_student_repository(folder / "student", run_folder, repo_id=options.repo, mask_repo=mask_repo, **about)
    if mask is not None:
        uploads.append(_Upload("Mask", options.mask_repo, "dataset", folder / "mask"))
        mask.write_repository(
            folder / "mask",
            repo_id=options.mask_repo,
            run_folder=None if (run_folder / KnowledgeMask.CONFIG_FILE).is_file() else run_folder,
            student_repo=None if options.mask_only else options.repo,
            soft_labels=soft_labels,
            **about,
        )
    return uploads


def _announce(part: _Upload, options: argparse.Namespace) -> None:
    files = check_folder(part.folder)
    kind = {"model": "model", "dataset": "data set"}[part.repo_type]
    private = ", private if it is new" if options.private else ""
    revision = f", revision {options.revision}" if options.revision else ""
    total = sum(size for _, size in files)
    print(f"\n{part.what} → {part.repo_id} ({kind}{private}{revision}): {len(files)} files, {format_size(total)}")
    for name, size in files:
        print(f"  {format_size(size):>10}  {name}")


def _upload(uploads: Sequence[_Upload], options: argparse.Namespace) -> None:
    print()
    for number, part in enumerate(uploads):
        print(f"Uploading {part.repo_id} ({number + 1} of {len(uploads)}) …", flush=True)
        try:
            commit = upload(
                part.folder,
                part.repo_id,
                repo_type=part.repo_type,
                private=options.private or None,
                revision=options.revision,
                commit_message=f"Upload {'student' if part.repo_type == 'model' else 'knowledge mask'}",
            )
        except ConnectionError as error:
            there = [f"{done.repo_id} is uploaded, " for done in uploads[:number]]
            raise RunFailed(
                f"{error} ({''.join(there)}{part.repo_id} is as it was; the same command goes on.)"
            ) from error
        print(f"  {commit.repo_url}")
