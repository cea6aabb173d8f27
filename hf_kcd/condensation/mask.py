"""The knowledge mask: the condensed knowledge of a finished training as files that somebody else can train on."""

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch

from ..artifacts.artifact import Artifact, Facts, Layout, Tensors
from ..artifacts.cards import CARD_NAME, write_card
from ..artifacts.files import refuse_links
from ..artifacts.identity import DatasetIdentity, label_digest
from ..artifacts.run_folder import RECIPE_NAME, RESULTS_NAME, pictures_of, read_run
from ..hub.privacy import without_folders
from ..hub.upload import full_name, upload
from .mask_card import PICTURES, TABLE_FILE, mask_card
from .mask_table import points_table
from .selection import Selection, check_tensor, refuse

if TYPE_CHECKING:
    import huggingface_hub

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_SELECTION = {"kept": torch.int64, "partner": torch.int64, "perturbation": torch.float32}
_TENSORS = _SELECTION | {"value": torch.float64, "frequency": torch.int64, "labels": torch.int64}


@dataclasses.dataclass(frozen=True, eq=False)
class KnowledgeMask(Artifact):
    """The points of a data set that still teach a student something, and what to mix into which of them.

    Args:
        kept: [K] int64 ids in rank order, the most valuable point first.
        partner, perturbation: [K] int64 and float32 aligned with `kept`: the id mixed in (-1 for none), and its share.
        value, frequency: [N] float64 and int64, each point's value (Eq. 12), and the number of epochs that recorded it.
        stage: Number of selections so far.
        schedule, dataset: The schedule's fields, plain JSON values, and the identity of the data set.
        provenance: What made it (teacher, student, method, seed, versions, command), plain JSON values.
        mixing_history: For images that stay mixed (released code): one `Selection` per stage, of the points it mixed.
        labels: [N] int64, each point's class; None where unknown.

    Raises:
        ValueError: When the parts do not fit together, naming the part.

    Example:
        ```python
        mask = KnowledgeMask.from_pretrained("me/wrn_16_2-kcd-cifar100-mask")
        condensed = mask.select(load_dataset("uoft-cs/cifar100", split="train"))
        ```

    Source: KCD, Fig. 3c and Fig. 4.
    """

    NAME = "knowledge mask"
    TYPE = "hf_kcd.KnowledgeMask"
    CONFIG_FILE = "mask_config.json"
    TENSOR_FILE = "mask.safetensors"
    FACTS = ("stage", "schedule", "dataset", "provenance")
    ADVICE = "Give a folder that save_pretrained wrote, or a repository that push_to_hub made."
    check = Artifact.check_dataset

    kept: torch.Tensor
    partner: torch.Tensor
    perturbation: torch.Tensor
    value: torch.Tensor
    frequency: torch.Tensor
    stage: int
    schedule: dict[str, Any]
    dataset: DatasetIdentity
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    mixing_history: list[Selection] = dataclasses.field(default_factory=list)
    labels: torch.Tensor | None = None

    def __post_init__(self) -> None:
        for name in _TENSORS:
            if name != "labels" or self.labels is not None:
                object.__setattr__(self, name, _own(name, getattr(self, name)))
        history = [_own_selection(stage, entry) for stage, entry in enumerate(self.mixing_history)]
        object.__setattr__(self, "mixing_history", history)

        check_tensor("value", self.value, torch.float64, self.num_points)
        check_tensor("frequency", self.frequency, torch.int64, self.num_points)
        refuse("value", self.value, ~self.value.isfinite(), "values are finite")
        refuse("frequency", self.frequency, self.frequency < 0, "a number of epochs is not negative")
        if not self.kept.numel():
            raise ValueError("kept is empty. A mask keeps at least one point.")
        self.selection.check(self.num_points, "kept")
        for stage, mixed in enumerate(history):
            try:
                mixed.check(self.num_points)
                refuse("partner", mixed.partner, ~mixed.is_mixed, "every point of the history was mixed")
            except ValueError as error:
                raise ValueError(f"mixing_history[{stage}]: {error}") from error
        if self.labels is not None:
            _check_labels(self.labels, self.dataset)
        if type(self.stage) is not int or self.stage < 0:
            raise ValueError(f"stage is {self.stage!r}. Give the number of selections so far.")
        for name in ("schedule", "provenance"):
            if not _is_plain_json(getattr(self, name)):
                raise ValueError(f"{name} is not a plain JSON object. Give a dict with string keys and JSON values.")

    @property
    def num_points(self) -> int:
        """Number of points of the data set, N."""
        return self.dataset.num_points

    @property
    def kept_mask(self) -> torch.Tensor:
        """[N] bool, the value label Y of every point."""
        return torch.zeros(self.num_points, dtype=torch.bool).index_fill_(0, self.kept, True)

    @property
    def selection(self) -> Selection:
        """The kept points in rank order with what is mixed into them."""
        return Selection(self.kept, self.partner, self.perturbation)

    @property
    def recorded_values(self) -> tuple[np.ndarray, np.ndarray]:
        """Values of the kept and of the discarded points, without points that no epoch recorded."""
        recorded, kept = self.frequency > 0, self.kept_mask
        return self.value[recorded & kept].numpy(), self.value[recorded & ~kept].numpy()

    @property
    def classes(self) -> tuple[int, int] | None:
        """Number of classes with a kept point, and of those with any point; None where the labels are unknown."""
        if self.labels is None:
            return None
        return len(self.labels[self.kept].unique()), len(self.labels.unique())

    def select(
        self, dataset: datasets.Dataset, *, image_column: str | None = None, label_column: str | None = None
    ) -> datasets.Dataset:
        """Take the kept points out of the data set, unmixed and in its order; another data set is a ValueError.

        `image_column` and `label_column` name its columns where they are not the first of their types.
        """
        self.check(dataset, image_column=image_column, label_column=label_column)
        return dataset.select(self.kept.sort().values.numpy())

    def hamming_distance(self, other: "KnowledgeMask") -> int:
        """Count the points that one mask keeps and the other discards (Fig. 3c); masks of other data are a ValueError."""
        self.check(other.dataset, other.labels)
        return int((self.kept_mask ^ other.kept_mask).sum())

    def description(self) -> Facts:
        """Describe the mask: counts (also of classes with a kept and with any point), lowest and highest shares and frequencies, quantiles (5 to 95 %), and its facts."""
        kept, mixed = self.kept_mask, self.selection.is_mixed
        shares, num_mixed = self.perturbation[mixed], int(mixed.sum())
        if self.mixing_history:
            touched = torch.cat([points[share > 0] for points, _, share in self.mixing_history])
            num_mixed = int(torch.isin(self.kept, touched).sum())
        parts = {"kept": self.value[kept], "discarded": self.value[~kept]}
        return {
            "num_points": self.num_points,
            "num_kept": len(self.kept),
            "num_mixed": num_mixed,
            "classes": self.classes,
            "shares": [shares.min().item(), shares.max().item()] if len(shares) else None,
            "cumulative_mixing": bool(self.mixing_history),
            "recorded": bool((self.frequency > 0).any()),
            "frequency": [self.frequency.min().item(), self.frequency.max().item()],
            "quantiles": {name: np.quantile(part, _QUANTILES).tolist() for name, part in parts.items() if len(part)},
            "labeled": self.labels is not None,
            **self.facts(),
        }

    def to_table(self) -> datasets.Dataset:
        """Make the table of all points that the Hub's viewer shows; the card explains its columns."""
        return points_table(self.selection, self.value, self.frequency, self.labels, self.dataset.class_names)

    def write_repository(
        self,
        folder: str | Path,
        *,
        repo_id: str,
        run_folder: str | Path | None = None,
        student_repo: str | None = None,
        teacher_repo: str | None = None,
        soft_labels: Artifact | None = None,
        license: str | None = None,
        pictures: bool = True,
    ) -> None:
        """Write what `push_to_hub` uploads: the mask's files, a table of all points, pictures, soft labels and the card.

        Equal arguments give equal files. Paths of this machine are reduced to their last part.

        Args:
            folder, repo_id: Where to write (it is made), and the repository that the card names.
            run_folder: Folder of the finished run that made the mask, for its data set, results and pictures.
            student_repo, teacher_repo: Repositories to link; by default the teacher's is the one in the run's recipe.
            soft_labels: The teacher's `SoftLabels` for the kept points.
            license: Identifier of the license, as the Hub has them ("apache-2.0").
            pictures: Whether the run's pictures go along; contact sheets show training images.

        Raises:
            FileNotFoundError: When the run is not finished.
            ValueError: When the run made another mask, or the soft labels are of other points.
            OSError: When it cannot be written.
        """
        # Matplotlib takes half a second to import, which most users of a mask need not wait.
        from ..artifacts.figures import save_figure
        from .value_plot import value_figure

        folder, (results, recipe), shown = Path(folder), (None, None), []
        if run_folder is not None:
            shown = pictures_of(run_folder, PICTURES) if pictures else []
            refuse_links(run_folder, [RESULTS_NAME, RECIPE_NAME, *shown])
            results, recipe = read_run(run_folder)
        if soft_labels is not None:
            self._check_soft_labels(soft_labels)
        published = dataclasses.replace(self, provenance=without_folders(self.provenance))
        stored = None if soft_labels is None else soft_labels.description()
        links = {"student_repo": student_repo, "teacher_repo": teacher_repo}
        card = mask_card(
            published.description(), results, recipe, shown, stored, repo_id=repo_id, license=license, **links
        )
        published.save_pretrained(folder)
        if soft_labels is not None:
            soft_labels.save_pretrained(folder)
        for name in (TABLE_FILE, *shown):
            (folder / name).parent.mkdir(exist_ok=True)
        self.to_table().to_parquet(folder / TABLE_FILE)
        for name in shown:
            shutil.copyfile(Path(run_folder or "") / name, folder / name)
        if (self.frequency > 0).any():
            value = str(self.schedule.get("value", "value"))
            figure = value_figure([self.recorded_values], [self.stage], self.num_points, value)
            save_figure(figure, folder / "plots" / "values.png")
        write_card(folder / CARD_NAME, card)

    def push_to_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        revision: str | None = None,
        overwrite: bool = False,
        commit_message: str = "Upload knowledge mask",
        **repository: Any,
    ) -> "huggingface_hub.CommitInfo":
        """Publish the mask as a data set repository of the Hub, in one commit.

        Args:
            repo_id: Such as `"me/my-mask"`, by default of the user who is logged in; made where it does not exist.
            private: Whether a new repository is private; None for the account's own default.
            revision, commit_message: Branch to commit to (made where it does not exist), and the commit's message.
            overwrite: Write over a repository that this package did not write.
            **repository: Other arguments of `write_repository`.

        Returns:
            The commit, with its address.

        Raises:
            ValueError: When the parts do not fit together, or may not be published; nothing has been sent.
            PermissionError: Without a login, or without the right to write.
            ConnectionError: When the Hub could not be reached or broke off; the repository is then as it was.
        """
        repo_id = full_name(repo_id, "dataset")
        with tempfile.TemporaryDirectory() as folder:
            self.write_repository(folder, repo_id=repo_id, **repository)
            return upload(
                folder,
                repo_id,
                repo_type="dataset",
                private=private,
                revision=revision,
                overwrite=overwrite,
                commit_message=commit_message,
            )

    def tensors(self) -> Tensors:
        tensors = {name: getattr(self, name) for name in _TENSORS if getattr(self, name) is not None}
        for stage, mixed in enumerate(self.mixing_history):
            tensors |= zip(_mixing_names(stage), mixed, strict=True)
        return tensors

    def facts(self) -> Facts:
        return {name: getattr(self, name) for name in self.FACTS} | {"dataset": self.dataset.to_dict()}

    @classmethod
    def layout(cls, facts: Facts, dataset: DatasetIdentity, names: Collection[str]) -> Layout:
        shape = (dataset.num_points,)
        expected = (name for name in _TENSORS if name != "labels" or name in names)
        layout: Layout = {name: (_TENSORS[name], shape) for name in expected}
        mixing = [(dtype, shape) for dtype in _SELECTION.values()]
        for stage in range(_num_mixings(names)):
            layout |= zip(_mixing_names(stage), mixing, strict=True)
        return layout

    @classmethod
    def from_parts(cls, tensors: Tensors, facts: Facts, dataset: DatasetIdentity) -> "KnowledgeMask":
        stages = range(_num_mixings(tensors))
        history = [Selection(*map(tensors.pop, _mixing_names(stage))) for stage in stages]
        parts: dict[str, Any] = {**tensors, **{name: facts[name] for name in cls.FACTS}, "dataset": dataset}
        return cls(**parts, mixing_history=history)

    def _check_soft_labels(self, soft_labels: Artifact) -> None:
        self.check(soft_labels.dataset)
        points = soft_labels.tensors()["points"].cpu()
        if not torch.equal(points, self.kept.sort().values):
            counts = f"{len(points):,} points, but not of the {len(self.kept):,} that the mask keeps"
            raise ValueError(f"The soft labels are of {counts}. Make them for this mask.")

    def __repr__(self) -> str:
        kept, num_mixed = f"{len(self.kept)} of {self.num_points} points kept", int(self.selection.is_mixed.sum())
        return f"KnowledgeMask({kept}, {num_mixed} with a partner, stage {self.stage})"


def _own(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{name} holds a {type(tensor).__name__}. Give tensors.")
    # A copy: training goes on with its tensors, and safetensors refuses two names for one memory.
    return tensor.detach().cpu().clone()


def _own_selection(stage: int, parts: Collection[torch.Tensor]) -> Selection:
    name = f"mixing_history[{stage}]"
    if len(parts) != len(Selection._fields):
        raise ValueError(f"{name} has {len(parts)} parts. Give points, partner and perturbation.")
    return Selection(*(_own(name, tensor) for tensor in parts))


def _check_labels(labels: torch.Tensor, dataset: DatasetIdentity) -> None:
    check_tensor("labels", labels, torch.int64, dataset.num_points)
    num_classes = len(dataset.class_names)
    refuse("labels", labels, (labels < 0) | (labels >= num_classes), f"classes run from 0 to {num_classes - 1}")
    if label_digest(labels.numpy()) != dataset.labels:
        raise ValueError("labels do not match the mask's data set. Give its labels in its order.")


def _is_plain_json(value: Any) -> bool:
    try:
        # JSON turns tuples into lists and number keys into strings: what does not come back as it was is not plain.
        return isinstance(value, dict) and json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError, RecursionError):
        return False


def _num_mixings(names: Collection[str]) -> int:
    return -(-sum(name.startswith("mixing.") for name in names) // len(Selection._fields))


def _mixing_names(stage: int) -> tuple[str, str, str]:
    return f"mixing.{stage}.point", f"mixing.{stage}.partner", f"mixing.{stage}.perturbation"
