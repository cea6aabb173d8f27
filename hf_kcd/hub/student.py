"""A student's repository: what of a finished run is published, and the card that says what it is and how it came about."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import yaml

from ..analysis.results import RECIPE_NAME, RESULTS_NAME, Results, read_results, run_label
from ..data.sources import hub_id
from ..files import atomic_file, read_json, write_json
from ..methods import available_methods, paper_of
from .cards import one_line, render_card, repository_of
from .local_paths import without_folders
from .upload import full_name, upload

if TYPE_CHECKING:
    import huggingface_hub

CARD_NAME = "README.md"
_WEIGHTS = ("config.json", "model.safetensors")
_PICTURES = ("plots/curves.png", "plots/most_valuable.png", "plots/least_valuable.png")


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
    mask_repo, teacher_repo = _links(recipe, mask_repo, teacher_repo)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*_WEIGHTS, *pictures):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(run_folder / name, folder / name)
    write_json(folder / RESULTS_NAME, without_folders(results))
    if recipe is not None:
        recipe = _published_recipe(recipe, mask_repo, teacher_repo)
        (folder / RECIPE_NAME).write_text(_yaml(recipe))
    text = student_card(
        results, recipe, pictures, repo_id=repo_id, mask_repo=mask_repo, teacher_repo=teacher_repo, **card
    )
    (folder / CARD_NAME).write_text(text)


def read_run(run_folder: str | Path) -> tuple[Results, dict[str, Any] | None]:
    """Read what a card is made from.

    Args:
        run_folder: The folder of a finished run.

    Returns:
        Its results, and its recipe; None where it has none.

    Raises:
        FileNotFoundError: When there are no results.
        ValueError: When a file is damaged.
    """
    run_folder = Path(run_folder)
    results, recipe = read_results(run_folder / RESULTS_NAME), None
    if (run_folder / RECIPE_NAME).is_file():
        try:
            recipe = yaml.safe_load((run_folder / RECIPE_NAME).read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{run_folder / RECIPE_NAME} is no YAML file: {error}") from error
        names = ("data", "student", "teacher", "mask")
        fits = isinstance(recipe, dict) and all(isinstance(key, str) for key in recipe)
        if not fits or not all(isinstance(recipe.get(name), str | None) for name in names):
            raise ValueError(
                f"{run_folder / RECIPE_NAME} holds no options of a run: write one 'option: value' a line."
            )
    return results, recipe


def pictures_of(run_folder: str | Path) -> list[str]:
    """Name the pictures of a run that a card shows: its curves and contact sheets, where they were drawn."""
    return [name for name in _PICTURES if (Path(run_folder) / name).is_file()]


def student_card(
    results: Results,
    recipe: dict[str, Any] | None = None,
    pictures: Sequence[str] = (),
    *,
    repo_id: str | None = None,
    mask_repo: str | None = None,
    teacher_repo: str | None = None,
    training: bool = False,
    model_name: str | None = None,
    license: str | None = None,
    language: str | list[str] | None = None,
    tags: str | list[str] | None = None,
    base_model: str | None = None,
    dataset: str | list[str] | None = None,
) -> str:
    """Write a student's card; every number in it is one of its results.

    Args:
        results: What `run_results` returned.
        recipe: The options of its run, by name.
        pictures: Names of the pictures that lie beside the card.
        repo_id: Where the student is published; without it the card is that of a run, whose weights are not at hand.
        mask_repo: Repository of the knowledge mask that the run made or was trained on.
        teacher_repo: Repository of the teacher.
        training: Whether the training goes on.
        model_name: What the student is called; the repository's name without it.
        license: Identifier of the weights' licence, as the Hub has them ("apache-2.0").
        language: For the card's metadata.
        tags: More tags for the card's metadata.
        base_model: Repository of the network that the student started from.
        dataset: Name of the data set, or its id on the Hub, where the results do not say.

    Returns:
        The text of a README.md, with its metadata at the head.
    """
    from huggingface_hub import ModelCardData

    results = without_folders(results)
    if dataset is not None:
        results["data"] = dataset if isinstance(dataset, str) else dataset[0]
    # The teacher of soft labels is called what a stranger's file calls it.
    results |= {name: one_line(results[name]) for name in ("student", "teacher", "data") if results[name] is not None}
    mask_repo, teacher_repo = _links(recipe, mask_repo, teacher_repo)
    recipe = None if recipe is None else _published_recipe(recipe, mask_repo, teacher_repo)
    base_model = base_model or repository_of((recipe or {}).get("student"))
    data_sets = [dataset] if isinstance(dataset, str) else dataset or [results["data"]]
    data_sets = [found for found in map(hub_id, data_sets) if found is not None]
    name = model_name or (repo_id or results["student"]).rpartition("/")[2]
    condensed, saved = _condensed(results), _seconds_saved(results)
    # What one line of the example can load: a whole split that the Hub has.
    whole = data_sets and (recipe or {}).get("train_points") is None
    train_split = ((recipe or {}).get("train_split") or "train") if whole else None
    own_tags = ["image-classification", "knowledge-distillation", "hf_kcd", "timm", results["method"]]
    own_tags += ["kcd"] if condensed else []
    own_tags += [tags] if isinstance(tags, str) else tags or []
    metadata = ModelCardData(
        language=language,
        license=license,
        library_name="timm",
        pipeline_tag="image-classification",
        tags=own_tags,
        # A student that was trained on a published mask has that for its data, too.
        datasets=data_sets + ([mask_repo] if mask_repo and results.get("mask") else []) or None,
        base_model=base_model,
        model_name=name,
        eval_results=_evaluation(results, data_sets, saved),
        teacher=teacher_repo,
        knowledge_mask=mask_repo,
    )
    return render_card(
        "student_card.md",
        metadata,
        results=results,
        title=run_label(results),
        repo_id=repo_id,
        mask_repo=mask_repo,
        teacher_repo=teacher_repo,
        base_model=base_model,
        data_sets=data_sets,
        train_split=train_split,
        license=license,
        training=training,
        epochs=_epochs_trained(results),
        condensed=condensed,
        saved=saved,
        published=_published_accuracy(results),
        paper=paper_of(results["method"]) if results["method"] in available_methods() else "",
        registered_by=_registered_by(results["student"]),
        pictures=pictures,
        recipe=None if recipe is None else _yaml(recipe),
    )


def write_card(path: str | Path, card: str) -> None:
    """Write a card as a file, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(card)


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


def _links(
    recipe: dict[str, Any] | None, mask_repo: str | None, teacher_repo: str | None
) -> tuple[str | None, str | None]:
    """Take the repositories of mask and teacher from a recipe that names them, where they are not given."""
    recipe = recipe or {}
    return mask_repo or _mask_repository(recipe), teacher_repo or repository_of(recipe.get("teacher"))


def _mask_repository(recipe: dict[str, Any]) -> str | None:
    """Take the repository out of the mask that a recipe names, "user/name" out of "user/name@revision"."""
    return hub_id((recipe.get("mask") or "").partition("@")[0])


def _published_recipe(recipe: dict[str, Any], mask_repo: str | None, teacher_repo: str | None) -> dict[str, Any]:
    """Make a recipe one that others can follow: what it names is where they find it, and nothing goes to the author's account."""
    account = ("hub_", "push_to_hub", "trackio_")
    recipe = {key: value for key, value in recipe.items() if not key.startswith(account)}
    if hub_id(str(recipe.get("data"))) is not None:
        recipe.pop("data_dir", None)
    # Those that it names already may have their revisions there.
    if teacher_repo is not None and "teacher" in recipe and repository_of(recipe["teacher"]) != teacher_repo:
        recipe["teacher"] = f"hf_hub:{teacher_repo}"
        recipe.pop("teacher_checkpoint", None)
    if mask_repo is not None and "mask" in recipe and _mask_repository(recipe) != mask_repo:
        recipe["mask"] = mask_repo
    return without_folders(recipe)


def _yaml(recipe: dict[str, Any]) -> str:
    return yaml.safe_dump(recipe, sort_keys=False, default_flow_style=None, width=120)


def _condensed(results: Results) -> bool:
    """Whether the run condensed knowledge: a selection drawn at random does not."""
    return results["condensation"] is not None and results["condensation"]["value"] != "random"


def _epochs_trained(results: Results) -> float:
    # Results of the first format's earliest files do not say how far into its last epoch a run went.
    return results.get("epochs_trained", results["history"]["epoch"][-1])


def _published_accuracy(results: Results) -> dict[str, float] | None:
    """That of the weights: of the last epoch, but for a run that went back to its best."""
    accuracy = results["accuracy"]
    return None if accuracy is None else accuracy.get("saved", accuracy["last"])


def _seconds_saved(results: Results) -> float | None:
    """Take the points that a whole training would have drawn besides, at the run's own mean time of a point.

    None where no selection left any out. The first stage's epochs would be no measure: they are few, and hold the warming up.
    """
    if results["condensation"] is None and results.get("mask") is None:
        return None
    drawn = results["cost"]["points"]
    left_out = results["num_points"] * _epochs_trained(results) - drawn
    return left_out * results["seconds"]["training"] / drawn if left_out > 0 else None


def _registered_by(network: str) -> str:
    """Name the package that has to be imported for timm to know a network."""
    return timm.model_entrypoint(network).__module__.partition(".")[0] if timm.is_model(network) else "timm"


def _evaluation(results: Results, data_sets: Sequence[str], saved: float | None) -> list | None:
    from huggingface_hub import EvalResult

    accuracy = _published_accuracy(results)
    if accuracy is None:
        return None
    metrics = [("accuracy", "Top-1 accuracy", accuracy["top1"] / 100)]
    if accuracy["top5"] is not None:
        metrics.append(("top_5_accuracy", "Top-5 accuracy", accuracy["top5"] / 100))
    metrics.append(("relative_cost", "Cost C paid, of the points of a whole training", results["cost"]["paid"]))
    if saved is not None:
        metrics.append(("seconds_saved", "Seconds of training saved, estimated", saved))
    return [
        EvalResult(
            task_type="image-classification",
            task_name="Image classification",
            dataset_type=data_sets[0] if data_sets else results["data"],
            dataset_name=results["data"],
            metric_type=metric,
            metric_name=name,
            metric_value=round(value, 4),
        )
        for metric, name, value in metrics
    ]
