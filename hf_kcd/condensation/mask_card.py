"""The card of a mask's repository, from the mask's description and the files of the run that made it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..artifacts.cards import format_size, one_line, render_card
from ..artifacts.results import Results
from ..hub.names import TAG, dataset_repository, network_repository
from ..hub.privacy import without_folders

if TYPE_CHECKING:
    from huggingface_hub import DatasetCardData

TABLE_FILE = "data/points.parquet"
# Pictures of a run that are about its knowledge, with what they show.
PICTURES = {
    "stages": "What each stage of the run kept, mixed and discarded, and how many points came back or left.",
    "ranks": "How points rose and fell in value over the stages.",
    "most_valuable": "The most valuable points.",
    "least_valuable": "The least valuable points.",
}
_TAGS = [TAG, "knowledge-mask", "knowledge-condensation", "image-classification"]
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M")
_NUM_NAMED = 8


def mask_card(
    mask: dict[str, Any],
    results: Results | None,
    recipe: dict[str, Any] | None,
    pictures: Sequence[str],
    soft_labels: dict[str, Any] | None,
    *,
    repo_id: str,
    student_repo: str | None,
    teacher_repo: str | None,
    license: str | None,
) -> str:
    """Write the card of a mask from its description, its run, the run's pictures, and the description of soft labels."""
    if results is not None:
        _check_run(results, mask)
        results = without_folders(results)
    provenance, recipe = mask["provenance"], recipe or {}
    source = _source(recipe.get("data") or (results or {}).get("data"), recipe)
    names = mask["dataset"]["class_names"]
    return render_card(
        Path(__file__).with_suffix(".md"),
        _metadata(mask, repo_id, source, license),
        repo_id=repo_id,
        mask=mask,
        source=source,
        title=_title(provenance, source),
        student=one_line(provenance.get("student", "STUDENT")),
        teacher=one_line(provenance["teacher"]) if provenance.get("teacher") else None,
        method=one_line(provenance.get("method", "kd")),
        versions=_versions(provenance.get("versions")),
        student_repo=student_repo,
        teacher_repo=teacher_repo
        or (network_repository(recipe.get("teacher")) if provenance.get("teacher") else None),
        making=_making(mask, results),
        results=results,
        class_names=one_line(", ".join(names[:_NUM_NAMED]) + ", …" * (len(names) > _NUM_NAMED)),
        pictures={name: PICTURES[Path(name).stem] for name in pictures},
        soft_labels=soft_labels,
        soft_labels_size=format_size(soft_labels["bytes"]) if soft_labels else None,
        license=license,
    )


def _check_run(results: Results, mask: dict[str, Any]) -> None:
    if results["condensation"] is None or results["num_points"] != mask["num_points"]:
        raise ValueError("run_folder holds another run than the mask's: it condensed nothing, or other data.")
    for name in ("student", "method", "seed"):
        known = mask["provenance"].get(name)
        if known is not None and known != results[name]:
            differs = f"its {name} is {results[name]}, the mask's is {known}"
            raise ValueError(f"run_folder holds another run than the mask's: {differs}.")


def _source(data: str | None, recipe: dict[str, Any]) -> dict[str, Any]:
    """Say how a reader of the card gets the data: in Markdown, in Python, and on the command line."""
    repository = None if data is None else dataset_repository(data)
    name = None if data is None else one_line(without_folders(data))
    split, points = recipe.get("train_split") or "train", recipe.get("train_points")
    imports = ["from datasets import load_dataset"]
    load = f'load_dataset("{repository or name or "FOLDER"}", split="{split}")'
    if data == "digits":
        imports, load = ["from hf_kcd.data import load_image_data"], 'load_image_data("digits").train'
    options = f"--data {name or 'FOLDER'}" + (f" --train_split {split}" if split != "train" else "")
    if points is not None:
        imports += ["from hf_kcd.data import first_points"]
        load, options = f"first_points({load}, {points})", f"{options} --train_points {points}"
    return {
        "name": name,
        "repository": repository,
        "link": f"[{name}](https://huggingface.co/datasets/{repository})" if repository else name or "a data set",
        "imports": sorted(["from hf_kcd import KnowledgeMask", *imports]),
        "load": load,
        "options": options,
    }


def _metadata(mask: dict[str, Any], repo_id: str, source: dict[str, Any], license: str | None) -> "DatasetCardData":
    from huggingface_hub import DatasetCardData

    size = min(max(len(str(mask["num_points"])) - 3, 0), len(_SIZES) - 1)
    # Without this the Hub would take every picture and tensor in the repository for data.
    table = {"config_name": "default", "data_files": [{"split": "train", "path": TABLE_FILE}]}
    return DatasetCardData(
        license=license,
        pretty_name=repo_id.rpartition("/")[2],
        task_categories=["image-classification"],
        tags=_TAGS,
        size_categories=[_SIZES[size]],
        source_datasets=None if source["repository"] is None else [source["repository"]],
        annotations_creators=["machine-generated"],
        configs=[table],
    )


def _title(provenance: dict[str, Any], source: dict[str, Any]) -> str:
    pair = " → ".join(str(provenance[role]) for role in ("teacher", "student") if provenance.get(role))
    data = f" on {source['name']}" if source["name"] else ""
    return one_line("Knowledge mask" + (f" of {pair}" if pair else "") + data)


def _making(mask: dict[str, Any], results: Results | None) -> dict[str, str]:
    """Say how the mask was made, as rows of a table, as far as its schedule says."""
    schedule, num_kept, num_points = mask["schedule"], mask["num_kept"], mask["num_points"]
    rows = {
        "Stage": str(mask["stage"]),
        "Kept": f"{num_kept:,} of {num_points:,} points ({num_kept / num_points:.1%})",
        "Mixed": "none",
    }
    if mask["classes"]:
        left, num_classes = mask["classes"]
        rows["Classes"] = f"{left:,} of {num_classes:,} have a kept point"
    if mask["cumulative_mixing"]:
        stages = "stage after stage into the 8-bit images for good (`cumulative_mixing`)"
        rows["Mixed"] = f"{mask['num_mixed']:,}, {stages}"
    elif mask["num_mixed"]:
        low, high = mask["shares"]
        rows["Mixed"] = f"{mask['num_mixed']:,}, with {low:.2f} to {high:.2f} of a discarded point"
    if {"num_epochs", "epochs_per_stage", "final_ratio", "shape", "first_selection"} <= schedule.keys():
        first = str(schedule["first_selection"]).replace("_first_", " the first ")
        rows["Schedule"] = (
            f"{schedule['num_epochs']} epochs, a selection every {schedule['epochs_per_stage']} (the first {first}), "
            f"{schedule['shape']} towards ρ = {schedule['final_ratio']} of the points"
        )
    if {"value", "online_recording", "cost_exponent"} <= schedule.keys():
        over = "the mean over all epochs (Eq. 12)" if schedule["online_recording"] else "the last epoch's"
        rows["Value"] = f"{schedule['value']}, {over}, ranked with α = {schedule['cost_exponent']} (Eq. 13)"
    planned = schedule.get("relative_cost")
    if results is not None:
        rows["Cost C"] = f"{results['cost']['paid']:.2%} of the points of a full training, as paid by this run"
    elif isinstance(planned, float):
        rows["Cost C"] = f"{planned:.2%} of the points of a full training, as planned by the schedule"
    return {name: one_line(text) for name, text in rows.items()}


def _versions(versions: Any) -> str | None:
    if not isinstance(versions, dict):
        return None
    return one_line(", ".join(f"{name} {version}" for name, version in versions.items()))
