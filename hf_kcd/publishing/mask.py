"""A knowledge mask as a data set repository of the Hub: its two files, a table for the viewer, pictures and a card."""

import dataclasses
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..artifacts.cards import CARD_NAME, one_line, render_card
from ..artifacts.results import Results
from ..artifacts.run_folder import read_run
from ..condensation import KnowledgeMask
from ..data import SoftLabels
from ..hub.local_paths import without_folders
from ..hub.names import dataset_repository, network_repository
from ..hub.upload import full_name, upload
from ..reporting import plot_values, save_figure

if TYPE_CHECKING:
    import huggingface_hub

TABLE_FILE = "data/points.parquet"
_TAGS = ["hf_kcd", "knowledge-mask", "knowledge-condensation", "image-classification"]
# Of a run's pictures those that are about its knowledge, with what they show.
_PICTURES = {
    "stages": "What each stage of the run kept, mixed and discarded, and how many points came back or left.",
    "ranks": "How points rose and fell in value over the stages.",
    "most_valuable": "The most valuable points.",
    "least_valuable": "The least valuable points.",
}
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M")


def push_mask(
    mask: KnowledgeMask,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload knowledge mask",
    **parts: Any,
) -> "huggingface_hub.CommitInfo":
    """Publish a mask as a data set repository, in one commit; the repository is made where it does not exist.

    Args:
        mask: The mask.
        repo_id: Such as "me/my-mask"; without a user's name the one that is logged in.
        private: Whether a new repository is private; None for the account's own default.
        revision: Branch to commit to, made where it does not exist; the main one without it.
        commit_message: Of the commit.
        **parts: What `write_mask_repository` takes besides: `run_folder`, `student_repo`, `teacher_repo`, `soft_labels`,
            `license`.

    Returns:
        The commit, with its address.

    Raises:
        ValueError: When its parts do not belong together, or may not be published; nothing has been sent.
        PermissionError: Without a login, or without the right to write.
        ConnectionError: When the Hub could not be reached or broke off; the repository is then as it was.
    """
    repo_id = full_name(repo_id, "dataset")
    with tempfile.TemporaryDirectory() as folder:
        write_mask_repository(folder, mask, repo_id=repo_id, **parts)
        return upload(
            folder, repo_id, repo_type="dataset", private=private, revision=revision, commit_message=commit_message
        )


def write_mask_repository(
    folder: str | Path,
    mask: KnowledgeMask,
    *,
    repo_id: str,
    run_folder: str | Path | None = None,
    student_repo: str | None = None,
    teacher_repo: str | None = None,
    soft_labels: SoftLabels | None = None,
    license: str | None = None,
) -> None:
    """Write what `push_mask` uploads; equal arguments give equal files.

    That is `mask.safetensors` and `mask_config.json`, the table `data/points.parquet`, which `datasets.load_dataset` and the
    Hub's viewer show, pictures, the soft labels where they are given, and the card `README.md`. Of paths in what the mask and
    the run say of themselves the last part stays.

    Args:
        folder: Where to write; it is made.
        mask: The mask.
        repo_id: The repository that the card speaks of.
        run_folder: Folder of the finished run that made the mask, for its data set, results and pictures.
        student_repo: Repository of the student that was trained with it, to be linked.
        teacher_repo: Repository of its teacher, to be linked; the one that the run's recipe names without it.
        soft_labels: The teacher's soft labels of the mask's points, to go along.
        license: Identifier of the licence, as the Hub has them ("apache-2.0").

    Raises:
        FileNotFoundError: When the run is not finished.
        ValueError: When the run made another mask, or the soft labels are of other points.
        OSError: When it cannot be written.
    """
    folder = Path(folder)
    results, recipe, pictures = None, {}, {}
    if run_folder is not None:
        results, recipe = read_run(run_folder)
        results, recipe = without_folders(results), recipe or {}
        _check_run(results, mask)
        pictures = {name: Path(run_folder) / "plots" / f"{name}.png" for name in _PICTURES}
    if soft_labels is not None:
        _check_soft_labels(soft_labels, mask)
        soft_labels.save(folder)
    mask = dataclasses.replace(mask, provenance=without_folders(mask.provenance))
    mask.save_pretrained(folder)
    (folder / TABLE_FILE).parent.mkdir(parents=True, exist_ok=True)
    mask.to_table().to_parquet(folder / TABLE_FILE)
    pictures = {name: path for name, path in pictures.items() if path.is_file()}
    for name, path in pictures.items():
        (folder / "plots").mkdir(exist_ok=True)
        shutil.copyfile(path, folder / "plots" / f"{name}.png")
    recorded = bool((mask.frequency > 0).any())
    if recorded:
        save_figure(plot_values([mask]), folder / "plots" / "values.png")
    source = _Source.of(recipe.get("data") or (results or {}).get("data"), recipe)
    provenance = mask.provenance
    card = render_card(
        Path(__file__).with_name("mask_card.md"),
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
        teacher_repo=teacher_repo or network_repository(recipe.get("teacher")),
        num_mixed=_num_mixed(mask),
        making=_making(mask, results),
        results=results,
        class_names=one_line(_shortened(mask.dataset.class_names)),
        recorded=recorded,
        pictures={name: _PICTURES[name] for name in pictures},
        soft_labels=None if soft_labels is None else soft_labels.description(),
        soft_labels_size=None if soft_labels is None else format_size(soft_labels.description()["bytes"]),
        license=license,
    )
    (folder / CARD_NAME).write_text(card, encoding="utf-8")


def format_size(num_bytes: int) -> str:
    """Write a number of bytes as people read it: "4.8 kB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes} bytes"


@dataclasses.dataclass(frozen=True)
class _Source:
    """How a reader of the card comes by the data that a mask is about.

    Args:
        name: What it is called; None where nobody said.
        repository: Where the Hub has it; None where it does not, as far as is known.
        imports: Lines of Python that the card's example begins with.
        load: Python that loads the split.
        options: What the command line calls it.
    """

    name: str | None
    repository: str | None
    imports: list[str]
    load: str
    options: str

    @classmethod
    def of(cls, data: str | None, recipe: dict[str, Any]) -> "_Source":
        """Take it from the name that a run gave its data, and from the recipe's splits."""
        repository = None if data is None else dataset_repository(data)
        name = None if data is None else one_line(without_folders(data))
        split, points = recipe.get("train_split") or "train", recipe.get("train_points")
        if data == "digits":
            imports, load = ["from hf_kcd.data import load_image_data"], 'load_image_data("digits").train'
        else:
            imports = ["from datasets import load_dataset"]
            load = f'load_dataset("{repository or name or "FOLDER"}", split="{split}")'
        options = f"--data {name or 'FOLDER'}" + (f" --train_split {split}" if split != "train" else "")
        if points is not None:
            imports += ["from hf_kcd.data import first_points"]
            load, options = f"first_points({load}, {points})", f"{options} --train_points {points}"
        return cls(name, repository, sorted(["from hf_kcd import KnowledgeMask", *imports]), load, options)

    @property
    def link(self) -> str:
        """Its name in Markdown, with its address where it has one."""
        if self.repository is None:
            return "a data set" if self.name is None else self.name
        return f"[{self.name}](https://huggingface.co/datasets/{self.repository})"


def _metadata(
    mask: KnowledgeMask, repo_id: str, source: _Source, license: str | None
) -> "huggingface_hub.DatasetCardData":
    from huggingface_hub import DatasetCardData

    # Without it every picture and tensor beside the table would be taken for data.
    table = {"config_name": "default", "data_files": [{"split": "train", "path": TABLE_FILE}]}
    return DatasetCardData(
        license=license,
        pretty_name=repo_id.rpartition("/")[2],
        task_categories=["image-classification"],
        tags=_TAGS,
        size_categories=[_SIZES[min(max(len(str(mask.num_points)) - 3, 0), len(_SIZES) - 1)]],
        source_datasets=None if source.repository is None else [source.repository],
        annotations_creators=["machine-generated"],
        configs=[table],
    )


def _making(mask: KnowledgeMask, results: Results | None) -> dict[str, str]:
    """Say how the mask was made, as rows of a table; what its schedule does not hold is left out."""
    schedule, kept = mask.schedule, len(mask.kept)
    rows = {"stage": str(mask.stage), "kept": f"{kept:,} of {mask.num_points:,} points ({kept / mask.num_points:.1%})"}
    mixed = mask.partner >= 0
    if mask.mixing_history:
        rows["mixed"] = f"{_num_mixed(mask):,}, stage after stage into the 8-bit images for good (`cumulative_mixing`)"
    elif mixed.any():
        shares = mask.perturbation[mixed]
        rows["mixed"] = f"{int(mixed.sum()):,}, with {shares.min():.2f} to {shares.max():.2f} of a discarded point"
    else:
        rows["mixed"] = "none"
    if {"num_epochs", "epochs_per_stage", "final_ratio", "shape", "first_selection"} <= schedule.keys():
        first = str(schedule["first_selection"]).replace("_first_", " the first ")
        rows["schedule"] = (
            f"{schedule['num_epochs']} epochs, a selection every {schedule['epochs_per_stage']} (the first {first}), "
            f"{schedule['shape']} towards ρ = {schedule['final_ratio']} of the points"
        )
    if {"value", "online_recording", "cost_exponent"} <= schedule.keys():
        over = "the mean over all epochs (Eq. 12)" if schedule["online_recording"] else "the last epoch's"
        rows["value"] = f"{schedule['value']}, {over}, ranked with α = {schedule['cost_exponent']} (Eq. 13)"
    cost = schedule.get("relative_cost")
    if results is not None:
        paid = results["cost"]["paid"]
        rows["cost C"] = f"{paid:.2%} of the points of a whole training, as it was paid while the mask was made"
    elif isinstance(cost, float):
        rows["cost C"] = f"{cost:.2%} of the points of a whole training, as the schedule that made the mask has it"
    return {name: one_line(text) for name, text in rows.items()}


def _num_mixed(mask: KnowledgeMask) -> int:
    """Count the kept points that have something of others in them."""
    if not mask.mixing_history:
        return int((mask.partner >= 0).sum())
    touched = torch.cat([points[shares > 0] for points, _, shares in mask.mixing_history])
    return int(torch.isin(mask.kept, touched).sum())


def _title(provenance: dict[str, Any], source: _Source) -> str:
    pair = " → ".join(str(provenance[role]) for role in ("teacher", "student") if provenance.get(role))
    return one_line("Knowledge mask" + (f" of {pair}" if pair else "") + (f" on {source.name}" if source.name else ""))


def _versions(versions: Any) -> str | None:
    if not isinstance(versions, dict):
        return None
    return one_line(", ".join(f"{name} {version}" for name, version in versions.items()))


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")


def _check_run(results: Results, mask: KnowledgeMask) -> None:
    if results["condensation"] is None or results["num_points"] != mask.num_points:
        raise ValueError("run_folder is not of the run that made the mask: it condensed nothing, or other data.")
    for name in ("student", "method", "seed"):
        known = mask.provenance.get(name)
        if known is not None and known != results[name]:
            raise ValueError(
                f"run_folder is not of the run that made the mask: its {name} is {results[name]}, the mask's is {known}."
            )


def _check_soft_labels(soft_labels: SoftLabels, mask: KnowledgeMask) -> None:
    mask.check(soft_labels.dataset)
    if not torch.equal(soft_labels.points.cpu(), mask.kept.sort().values):
        raise ValueError(
            f"The soft labels are of {len(soft_labels.points):,} points, and not of the {len(mask.kept):,} that the mask keeps: "
            "make them for this mask."
        )
