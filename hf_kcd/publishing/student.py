"""A student's repository: what of a finished run is published, and the card that says what it is and how it came about."""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..artifacts.cards import CARD_NAME
from ..artifacts.files import read_json, write_json
from ..artifacts.results import Results
from ..artifacts.run_folder import RECIPE_NAME, RESULTS_NAME, pictures_of, read_run
from ..hub.local_paths import without_folders
from ..hub.upload import full_name, upload
from ..reporting.student_card import links, published_recipe, student_card, yaml_text

if TYPE_CHECKING:
    import huggingface_hub

_WEIGHTS = ("config.json", "model.safetensors")


def push_student(
    run_folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload student",
    mask_repo: str | None = None,
    teacher_repo: str | None = None,
    **card: Any,
) -> "huggingface_hub.CommitInfo":
    """Publish the student of a run in one commit; the repository is made where it does not exist.

    Args:
        run_folder: The folder of a finished run.
        repo_id: Such as "me/my-student"; without a user's name the one that is logged in.
        private: Whether a new repository is private; None for the account's own default.
        revision: Branch to commit to, made where it does not exist; the main one without it.
        commit_message: Of the commit.
        mask_repo: Repository of the knowledge mask that the run made or was trained on, to be linked.
        teacher_repo: Repository of the teacher, to be linked.
        **card: What `student_card` takes besides: `license`, `tags` and others.

    Returns:
        The commit, with its address.

    Raises:
        FileNotFoundError: When the run is not finished, or its folder has no weights; nothing has been sent.
        ValueError: When its files do not belong together or may not be published; nothing has been sent.
        PermissionError: Without a login, or without the right to write.
        ConnectionError: When the Hub could not be reached or broke off.
    """
    repo_id = full_name(repo_id, "model")
    with tempfile.TemporaryDirectory() as folder:
        write_student_repository(
            folder, run_folder, repo_id=repo_id, mask_repo=mask_repo, teacher_repo=teacher_repo, **card
        )
        return upload(folder, repo_id, private=private, revision=revision, commit_message=commit_message)


def write_student_repository(
    folder: str | Path,
    run_folder: str | Path,
    *,
    repo_id: str,
    mask_repo: str | None = None,
    teacher_repo: str | None = None,
    **card: Any,
) -> None:
    """Write what `push_student` uploads.

    That is `config.json` and `model.safetensors`, `results.json`, `recipe.yaml` where the run has one, its curves and contact
    sheets where they were drawn, and the card `README.md`. Of paths in recipe and command their last part stays; the recipe
    names the teacher and the mask by their repositories where these are given, and no folder with the data of a data set
    that the Hub has. Networks that learned along (the folders beside the weights) are not published: they have no results of
    their own.

    Args:
        folder: Where to write.
        run_folder: The folder of a finished run.
        repo_id: The repository that the card speaks of.
        mask_repo: Repository of the knowledge mask that the run made or was trained on.
        teacher_repo: Repository of the teacher.
        **card: What `student_card` takes besides.

    Raises:
        FileNotFoundError: When the run is not finished, or its folder has no weights.
        ValueError: When its files are damaged or do not belong together.
    """
    folder, run_folder = Path(folder), Path(run_folder)
    results, recipe = read_run(run_folder)
    pictures = pictures_of(run_folder)
    _check_weights(run_folder, results)
    mask_repo, teacher_repo = links(recipe, mask_repo, teacher_repo)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*_WEIGHTS, *pictures):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(run_folder / name, folder / name)
    write_json(folder / RESULTS_NAME, without_folders(results))
    if recipe is not None:
        recipe = published_recipe(recipe, mask_repo, teacher_repo)
        (folder / RECIPE_NAME).write_text(yaml_text(recipe))
    text = student_card(
        results, recipe, pictures, repo_id=repo_id, mask_repo=mask_repo, teacher_repo=teacher_repo, **card
    )
    (folder / CARD_NAME).write_text(text)


def _check_weights(run_folder: Path, results: Results) -> None:
    missing = [name for name in _WEIGHTS if not (run_folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{run_folder} has results but no {' and no '.join(missing)}: give the folder that the run wrote, with its weights."
        )
    config = read_json(run_folder / "config.json")
    architecture = config.get("architecture") if isinstance(config, dict) else None
    if architecture != results["student"]:
        raise ValueError(
            f"{run_folder} holds the weights of {architecture} and the results of {results['student']}: they are of two runs."
        )
