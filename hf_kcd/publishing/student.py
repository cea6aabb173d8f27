"""A student's repository: the files of a finished run that are published, with a card."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import huggingface_hub

from ..artifacts.cards import CARD_NAME
from ..artifacts.files import read_json, refuse_links, write_json
from ..artifacts.results import Results
from ..artifacts.run_folder import RECIPE_NAME, RESULTS_NAME, WEIGHTS, pictures_of, read_run, weights_of
from ..hub import full_name, upload, without_folders
from ..reporting.student_card import published_recipe, student_card, yaml_text


def push_student(
    run_folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    commit_message: str = "Upload student",
    **links_and_card: Any,
) -> huggingface_hub.CommitInfo:
    """Publish the student of a run in one commit; create the repository if it does not exist.

    Args:
        run_folder: The folder of a finished run.
        repo_id, private, revision, overwrite, commit_message: As for `hf_kcd.hub.upload`.
        **links_and_card: Other arguments of `write_student_repository`: `mask_repo`, `teacher_repo`, `license`, `tags`, ….

    Returns:
        The commit, with its address.

    Raises:
        FileNotFoundError, ValueError: As `write_student_repository`, before anything is sent.
        PermissionError, ConnectionError: As `hf_kcd.hub.upload`.
    """
    repo_id = full_name(repo_id, "model")
    with tempfile.TemporaryDirectory() as folder:
        write_student_repository(folder, run_folder, repo_id=repo_id, **links_and_card)
        options = {"private": private, "revision": revision, "overwrite": overwrite, "commit_message": commit_message}
        return upload(folder, repo_id, **options)


def write_student_repository(
    folder: str | Path,
    run_folder: str | Path,
    *,
    repo_id: str,
    mask_repo: str | None = None,
    teacher_repo: str | None = None,
    pictures: bool = True,
    **card: Any,
) -> None:
    """Write the files that `push_student` uploads.

    These are `config.json`, `model.safetensors`, `results.json`, the card `README.md`, and, if the run has them,
    `preprocessor_config.json`, `recipe.yaml`, its curves and its contact sheets. Paths are reduced to their last component. The recipe names the teacher
    and the mask by their repositories. Networks that learned along (subfolders of the run) are not published.

    Args:
        folder, run_folder: Where to write, and the folder of a finished run.
        repo_id: The repository that the card names.
        pictures: Whether curves and contact sheets go along; contact sheets show training images.
        mask_repo, teacher_repo, **card: As for `student_card`.

    Raises:
        FileNotFoundError: When the run is not finished or its folder has no weights.
        ValueError: When its files are damaged, are links, or do not belong together.
    """
    folder, run_folder = Path(folder), Path(run_folder)
    shown = pictures_of(run_folder) if pictures else []
    refuse_links(run_folder, [RESULTS_NAME, RECIPE_NAME, *weights_of(run_folder), *shown])
    results, recipe = read_run(run_folder)
    _check_weights(run_folder, results)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*weights_of(run_folder), *shown):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(run_folder / name, folder / name)
    write_json(folder / RESULTS_NAME, without_folders(results))
    if recipe is not None:
        recipe = published_recipe(recipe, mask_repo, teacher_repo)
        (folder / RECIPE_NAME).write_text(yaml_text(recipe), encoding="utf-8")
    links = {"repo_id": repo_id, "mask_repo": mask_repo, "teacher_repo": teacher_repo}
    (folder / CARD_NAME).write_text(student_card(results, recipe, shown, **links, **card), encoding="utf-8")


def _check_weights(run_folder: Path, results: Results) -> None:
    if missing := [name for name in WEIGHTS if not (run_folder / name).is_file()]:
        raise FileNotFoundError(f"{run_folder} has no {' and no '.join(missing)}: give a run that saved its weights.")
    config = read_json(run_folder / "config.json")
    found = config.get("architecture") if isinstance(config, dict) else None
    if found != results["student"]:
        raise ValueError(
            f"{run_folder} holds the weights of {found} but the results of {results['student']}: two runs."
        )
