"""The card of a student: what it is, what it reached and paid, and how to use it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import yaml

from ..artifacts.cards import one_line, render_card
from ..artifacts.results import Results, run_label
from ..hub.local_paths import without_folders
from ..hub.names import dataset_repository, network_repository
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
    mask_repo, teacher_repo = links(recipe, mask_repo, teacher_repo)
    recipe = None if recipe is None else published_recipe(recipe, mask_repo, teacher_repo)
    base_model = base_model or network_repository((recipe or {}).get("student"))
    data_sets = [dataset] if isinstance(dataset, str) else dataset or [results["data"]]
    data_sets = [found for found in map(dataset_repository, data_sets) if found is not None]
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
        Path(__file__).with_name("student_card.md"),
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
        recipe=None if recipe is None else yaml_text(recipe),
    )


def links(
    recipe: dict[str, Any] | None, mask_repo: str | None, teacher_repo: str | None
) -> tuple[str | None, str | None]:
    """Take the repositories of mask and teacher from a recipe that names them, where they are not given."""
    recipe = recipe or {}
    return mask_repo or _mask_repository(recipe), teacher_repo or network_repository(recipe.get("teacher"))


def _mask_repository(recipe: dict[str, Any]) -> str | None:
    """Take the repository out of the mask that a recipe names, "user/name" out of "user/name@revision"."""
    return dataset_repository((recipe.get("mask") or "").partition("@")[0])


def published_recipe(recipe: dict[str, Any], mask_repo: str | None, teacher_repo: str | None) -> dict[str, Any]:
    """Make a recipe one that others can follow: what it names is where they find it, and nothing goes to the author's account."""
    account = ("hub_", "push_to_hub", "trackio_")
    recipe = {key: value for key, value in recipe.items() if not key.startswith(account)}
    if dataset_repository(str(recipe.get("data"))) is not None:
        recipe.pop("data_dir", None)
    # Those that it names already may have their revisions there.
    if teacher_repo is not None and "teacher" in recipe and network_repository(recipe["teacher"]) != teacher_repo:
        recipe["teacher"] = f"hf_hub:{teacher_repo}"
        recipe.pop("teacher_checkpoint", None)
    if mask_repo is not None and "mask" in recipe and _mask_repository(recipe) != mask_repo:
        recipe["mask"] = mask_repo
    return without_folders(recipe)


def yaml_text(recipe: dict[str, Any]) -> str:
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
