"""The card of a student: what it is, what it reached, what it cost, and how to use it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import yaml
from huggingface_hub import EvalResult, ModelCardData

from ..artifacts.cards import one_line, render_card
from ..artifacts.results import Results, run_label
from ..hub import dataset_repository, network_repository, without_folders
from ..hub.names import TAG
from ..methods import available_methods, paper_of


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
    """Write a student's card; all its numbers come from the results.

    Args:
        results: The results of the run.
        recipe, pictures: The options of the run, by name; the names of the pictures beside the card.
        repo_id: Where the student is published; None for a card of a run without weights.
        mask_repo: Repository of the knowledge mask that the run made or was trained on; default: what the recipe names.
        teacher_repo, base_model: Repositories of the teacher and of the student's first weights; default: the recipe's.
        training: Whether the training is still running.
        model_name, language, tags: For the metadata; the name is by default the repository's.
        license: The Hub's identifier of the weights' license ("apache-2.0").
        dataset: Name of the data set, or its id on the Hub, if the results do not say.

    Returns:
        The text of a README.md with its metadata.
    """
    results = without_folders(results)
    names = [dataset or results["data"]] if isinstance(dataset, str | None) else dataset
    results["data"] = names[0]
    # Files of strangers may name the teacher.
    results |= {name: one_line(results[name]) for name in ("student", "teacher", "data") if results[name] is not None}
    recipe = recipe or {}
    links = {
        "mask_repo": mask_repo or _mask_repository(recipe),
        "teacher_repo": teacher_repo or (network_repository(recipe.get("teacher")) if results["teacher"] else None),
        "base_model": base_model or network_repository(recipe.get("student")),
        "data_sets": [found for name in names if (found := dataset_repository(name)) is not None],
    }
    recipe = published_recipe(recipe, links["mask_repo"], links["teacher_repo"])
    ours = ["image-classification", "knowledge-distillation", TAG, "timm", results["method"]]
    ours += ["kcd"] if _condensed(results) else []
    data_sets = links["data_sets"]
    metadata = ModelCardData(
        language=language,
        license=license,
        tags=ours + ([tags] if isinstance(tags, str) else tags or []),
        model_name=model_name or (repo_id or results["student"]).rpartition("/")[2],
        library_name="timm",
        pipeline_tag="image-classification",
        # A mask that the student was trained on is data, too.
        datasets=data_sets + [links["mask_repo"]] * bool(links["mask_repo"] and results.get("mask")) or None,
        base_model=links["base_model"],
        eval_results=_evaluation(results, data_sets),
        teacher=links["teacher_repo"],
        knowledge_mask=links["mask_repo"],
    )
    values = {"repo_id": repo_id, "license": license, "training": training, "pictures": pictures, **links}
    values |= _values(results, recipe, links)
    return render_card(Path(__file__).with_name("student_card.md"), metadata, **values)


def published_recipe(recipe: dict[str, Any], mask_repo: str | None, teacher_repo: str | None) -> dict[str, Any]:
    """Make a recipe that others can follow: repositories for folders, and nothing about the author's accounts."""
    accounts = ("hub_", "push_to_hub", "trackio_")
    recipe = {key: value for key, value in recipe.items() if not key.startswith(accounts)}
    if dataset_repository(str(recipe.get("data"))) is not None:
        recipe.pop("data_dir", None)
    # A repository that the recipe names already may have its revision there.
    if teacher_repo is not None and "teacher" in recipe and network_repository(recipe["teacher"]) != teacher_repo:
        recipe["teacher"] = f"hf_hub:{teacher_repo}"
        recipe.pop("teacher_checkpoint", None)
    if mask_repo is not None and "mask" in recipe and _mask_repository(recipe) != mask_repo:
        recipe["mask"] = mask_repo
    return without_folders(recipe)


def yaml_text(recipe: dict[str, Any]) -> str:
    return yaml.safe_dump(recipe, sort_keys=False, default_flow_style=None, width=120)


def _mask_repository(recipe: dict[str, Any]) -> str | None:
    return dataset_repository((recipe.get("mask") or "").partition("@")[0])


def _values(results: Results, recipe: dict[str, Any], links: dict[str, Any]) -> dict[str, Any]:
    """Return what the template shows of a run."""
    student = results["student"]
    # The example's one line can load a whole split of the Hub, not a part of it.
    whole = links["data_sets"] and recipe.get("train_points") is None
    return {
        "results": results,
        "title": run_label(results),
        "train_split": (recipe.get("train_split") or "train") if whole else None,
        "epochs": _epochs_trained(results),
        "condensed": _condensed(results),
        "saved": _seconds_saved(results),
        "published": _published_accuracy(results),
        "paper": paper_of(results["method"]) if results["method"] in available_methods() else "",
        # The package to import so that timm knows the network.
        "registered_by": timm.model_entrypoint(student).__module__.split(".")[0] if timm.is_model(student) else "timm",
        "recipe": yaml_text(recipe) if recipe else None,
    }


def _condensed(results: Results) -> bool:
    """A random selection condenses no knowledge."""
    return results["condensation"] is not None and results["condensation"]["value"] != "random"


def _epochs_trained(results: Results) -> float:
    # The earliest files of format 1 do not have "epochs_trained".
    return results.get("epochs_trained", results["history"]["epoch"][-1])


def _published_accuracy(results: Results) -> dict[str, float] | None:
    """The accuracy of the weights: the last epoch's, or the best one's if the run restored it."""
    accuracy = results["accuracy"]
    return None if accuracy is None else accuracy.get("saved", accuracy["last"])


def _seconds_saved(results: Results) -> float | None:
    """Estimate the seconds saved: skipped points times mean seconds per point; None if nothing was skipped."""
    if results["condensation"] is None and results.get("mask") is None:
        return None
    drawn = results["cost"]["points"]
    skipped = results["num_points"] * _epochs_trained(results) - drawn
    # Not the mean of the first stage: it has few epochs and contains the warm-up.
    return skipped * results["seconds"]["training"] / drawn if skipped > 0 else None


def _evaluation(results: Results, data_sets: Sequence[str]) -> list[EvalResult] | None:
    accuracy, saved = _published_accuracy(results), _seconds_saved(results)
    if accuracy is None:
        return None
    metrics = [
        ("accuracy", "Top-1 accuracy", accuracy["top1"] / 100),
        ("top_5_accuracy", "Top-5 accuracy", None if accuracy["top5"] is None else accuracy["top5"] / 100),
        ("relative_cost", "Cost C paid, relative to the points of a whole training", results["cost"]["paid"]),
        ("seconds_saved", "Seconds of training saved, estimated", saved),
    ]
    about = {"task_type": "image-classification", "task_name": "Image classification", "dataset_name": results["data"]}
    about["dataset_type"] = data_sets[0] if data_sets else results["data"]
    about["dataset_split"] = results.get("evaluation_set")
    return [
        EvalResult(metric_type=metric, metric_name=name, metric_value=round(value, 4), **about)
        for metric, name, value in metrics
        if value is not None
    ]
