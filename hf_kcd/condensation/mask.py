"""The knowledge mask: the condensed knowledge of a finished training as files that somebody else can train on."""

import dataclasses
import hashlib
import importlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pyarrow
import torch
from safetensors import SafetensorError, safe_open

from ..artifacts.files import read_description, refuse_control_characters, save_tensors, sha256_of, write_json
from ..artifacts.identity import DatasetIdentity
from ..hub.download import fetch_files
from ..version import __version__

if TYPE_CHECKING:
    import huggingface_hub

TENSOR_FILE = "mask.safetensors"
CONFIG_FILE = "mask_config.json"
_TYPE = "hf_kcd.KnowledgeMask"
_FORMAT_VERSION = 1
_CONFIG_KEYS = {"type", "format_version", "library_version", "sha256", "stage", "schedule", "dataset", "provenance"}
# Types as the header of a safetensors file has them.
_TENSOR_TYPES = {"kept": "I64", "partner": "I64", "perturbation": "F32", "value": "F64", "frequency": "I64"}
_OPTIONAL_TYPES = {"labels": "I64"}
_MIXING_TYPES = {"point": "I64", "partner": "I64", "perturbation": "F32"}
# In bytes; a data set of twenty thousand classes takes less than a million.
_LARGEST_CONFIG = 16 * 2**20


@dataclasses.dataclass(frozen=True, eq=False)
class KnowledgeMask:
    """Say which points of a data set still teach a student something, and which of them to mix with what.

    Args:
        kept: [K] int64 ids in rank order, the most valuable point first.
        partner: [K] int64 aligned with `kept`: the id mixed in, -1 for none.
        perturbation: [K] float32 aligned with `kept`: the share of the partner in [0, 1], 0 for none.
        value: [N] float64, each point's recorded value (Eq. 12).
        frequency: [N] int64, the number of epochs that recorded it.
        stage: Number of selections so far.
        schedule: The schedule's fields, plain JSON values.
        dataset: Which data set this is about.
        provenance: Where it comes from (teacher, student, method, seed, versions, command), plain JSON values.
        mixing_history: For images that stay mixed from stage to stage (released code), one entry per selection in
            order: ids, their partners' ids, and the shares. Empty where `partner` and `perturbation` say it all.
        labels: [N] int64, each point's class, so that the mask can name it without the data set; None where unknown.

    Raises:
        ValueError: When the parts do not fit together, naming the part.

    Example:
        ```python
        mask = KnowledgeMask.from_pretrained("me/wrn_16_2-kcd-cifar100-mask")
        condensed = mask.select(load_dataset("uoft-cs/cifar100", split="train"))
        ```

    Source: KCD, Fig. 3c and Fig. 4.
    """

    kept: torch.Tensor
    partner: torch.Tensor
    perturbation: torch.Tensor
    value: torch.Tensor
    frequency: torch.Tensor
    stage: int
    schedule: dict[str, Any]
    dataset: DatasetIdentity
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    mixing_history: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = dataclasses.field(default_factory=list)
    labels: torch.Tensor | None = None

    def __post_init__(self) -> None:
        for name in self._tensor_names():
            object.__setattr__(self, name, _own(name, getattr(self, name)))
        history = [tuple(_own("mixing_history", tensor) for tensor in entry) for entry in self.mixing_history]
        object.__setattr__(self, "mixing_history", history)

        num_points = self.num_points
        _check_tensor("value", self.value, torch.float64, num_points)
        _check_tensor("frequency", self.frequency, torch.int64, num_points)
        _refuse("value", ~self.value.isfinite(), "is not finite")
        _refuse("frequency", self.frequency < 0, "is negative")
        if not self.kept.numel():
            raise ValueError("kept is empty. A mask keeps at least one point.")
        _check_mixing(self.kept, self.partner, self.perturbation, num_points, ("kept", "partner", "perturbation"))
        for selection, entry in enumerate(history):
            names = tuple(f"mixing_history[{selection}] {name}" for name in _MIXING_TYPES)
            if len(entry) != len(names):
                raise ValueError(
                    f"mixing_history[{selection}] has {len(entry)} parts. Give {', '.join(_MIXING_TYPES)}."
                )
            _check_mixing(*entry, num_points, names)
            _refuse(names[1], entry[1] < 0, "is missing")
        if self.labels is not None:
            _check_labels(self.labels, self.dataset)
        if not isinstance(self.stage, int) or isinstance(self.stage, bool) or self.stage < 0:
            raise ValueError(f"stage is {self.stage!r}. Give the number of selections so far.")
        for name in ("schedule", "provenance"):
            value = getattr(self, name)
            if not isinstance(value, dict) or not _is_plain_json(value):
                raise ValueError(
                    f"{name} is no plain JSON object. Give a dict of strings, finite numbers, booleans, None, lists "
                    f"and dicts with string keys."
                )

    @property
    def num_points(self) -> int:
        """Number of points of the data set, N."""
        return self.dataset.num_points

    @property
    def kept_mask(self) -> torch.Tensor:
        """[N] bool, the value label Y of every point."""
        return torch.zeros(self.num_points, dtype=torch.bool).index_fill_(0, self.kept, True)

    def check(self, dataset: datasets.Dataset | DatasetIdentity) -> None:
        """Make sure that a data set is the one this mask is about, point by point.

        Args:
            dataset: The data set, or its identity where that is known already.

        Raises:
            ValueError: When it is another one, with the difference.
        """
        identity = dataset if isinstance(dataset, DatasetIdentity) else DatasetIdentity.of(dataset)
        difference = self.dataset.difference(identity)
        if difference:
            raise ValueError(
                f"This mask is not about this data set: {difference}. "
                f"Load the split that the mask was made on, in its original order."
            )

    def select(self, dataset: datasets.Dataset) -> datasets.Dataset:
        """Take the kept points out of the data set, in the data set's order and unmixed.

        Raises:
            ValueError: When it is not the data set that this mask is about.
        """
        self.check(dataset)
        return dataset.select(self.kept.sort().values.numpy())

    def to_table(self) -> datasets.Dataset:
        """Lay the mask out as a table of all points, as the Hub's viewer shows it: one row a point, in the data set's order.

        Returns:
            Columns `point` (id), `kept`, `rank` (place among the kept, 0 the most valuable; null for discarded points),
            `value` (Eq. 12), `frequency`, `partner` (null for none), `perturbation` (0 for none) and, where the mask
            knows the labels, `label` with the classes' names.
        """
        kept = self.kept.numpy()
        rank, partner = np.full((2, self.num_points), -1, dtype=np.int64)
        perturbation = np.zeros(self.num_points, dtype=np.float32)
        rank[kept], partner[kept], perturbation[kept] = np.arange(len(kept)), self.partner, self.perturbation
        columns = {
            "point": pyarrow.array(np.arange(self.num_points)),
            "kept": pyarrow.array(rank >= 0),
            "rank": pyarrow.array(rank, mask=rank < 0),
            "value": pyarrow.array(self.value.numpy()),
            "frequency": pyarrow.array(self.frequency.numpy()),
            "partner": pyarrow.array(partner, mask=partner < 0),
            "perturbation": pyarrow.array(perturbation),
        }
        features = {name: datasets.Value(str(column.type)) for name, column in columns.items()}
        if self.labels is not None:
            columns["label"] = pyarrow.array(self.labels.numpy())
            features["label"] = datasets.ClassLabel(names=list(self.dataset.class_names))
        return datasets.Dataset.from_dict(columns, features=datasets.Features(features))

    def hamming_distance(self, other: "KnowledgeMask") -> int:
        """Count the points that one mask keeps and the other discards (Fig. 3c).

        Raises:
            ValueError: When the two are about different data sets.
        """
        self.check(other.dataset)
        return int((self.kept_mask ^ other.kept_mask).sum())

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `mask.safetensors` and then `mask_config.json`; equal masks give equal bytes.

        Args:
            folder: Where to write; it is made, and other files in it are left alone.

        Raises:
            OSError: When it cannot be written.
        """
        folder = Path(folder)
        tensors = {name: getattr(self, name) for name in self._tensor_names()}
        for selection, entry in enumerate(self.mixing_history):
            tensors |= dict(zip(_mixing_keys(selection), entry, strict=True))
        save_tensors(folder / TENSOR_FILE, tensors)
        # The config comes last and holds the tensors' checksum, so the two are known to belong together.
        config = {
            "type": _TYPE,
            "format_version": _FORMAT_VERSION,
            "library_version": __version__,
            "sha256": sha256_of(folder / TENSOR_FILE),
            "stage": self.stage,
            "schedule": self.schedule,
            "dataset": self.dataset.to_dict(),
            "provenance": self.provenance,
        }
        write_json(folder / CONFIG_FILE, config)

    @classmethod
    def from_pretrained(cls, path_or_repo: str | Path, revision: str | None = None) -> "KnowledgeMask":
        """Load a mask from a folder or from a data set repository of the Hub, of which only two files are fetched.

        What the files say is checked before it is used.

        Args:
            path_or_repo: A local folder, or a repository id such as `"me/my-mask"`.
            revision: Branch, tag or commit of the repository.

        Raises:
            FileNotFoundError: When there is no such folder, repository or revision, or no mask in it.
            PermissionError: When the repository may not be read.
            ConnectionError: When the Hub cannot be reached and the cache does not have the mask.
            ValueError: When the files are damaged, of another kind, or of a newer format.
        """
        name, folder = str(path_or_repo), Path(path_or_repo)
        if folder.is_file():
            raise FileNotFoundError(f"{folder} is a file. Give the folder that holds {CONFIG_FILE} and {TENSOR_FILE}.")
        if folder.is_dir():
            if revision is not None:
                raise ValueError(f"{folder} is a folder, of which there is no revision {revision!r}: leave it out.")
            return cls._read(folder, name)
        return cls._read(_fetch(name, revision), name)

    @classmethod
    def _read(cls, folder: Path, name: str) -> "KnowledgeMask":
        missing = [file for file in (CONFIG_FILE, TENSOR_FILE) if not (folder / file).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{name} holds no knowledge mask: {' and '.join(missing)} missing. "
                f"Give a folder that save_pretrained wrote, or a repository that push_to_hub made."
            )
        config = _read_config(folder / CONFIG_FILE, f"{name}/{CONFIG_FILE}")
        if sha256_of(folder / TENSOR_FILE) != config["sha256"]:
            raise ValueError(
                f"{name}/{TENSOR_FILE} is not the file that {CONFIG_FILE} describes: cut short, damaged, or of another "
                f"mask. Fetch both again."
            )
        try:
            dataset = DatasetIdentity.from_dict(config["dataset"])
            tensors = _read_tensors(folder / TENSOR_FILE, dataset.num_points)
            history = _pop_history(tensors)
            return cls(
                **tensors,
                stage=config["stage"],
                schedule=config["schedule"],
                dataset=dataset,
                provenance=config["provenance"],
                mixing_history=history,
            )
        except ValueError as error:
            raise ValueError(f"{name} holds no valid knowledge mask: {error}") from error

    def push_to_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload knowledge mask",
        **links: Any,
    ) -> "huggingface_hub.CommitInfo":
        """Publish the mask as a data set repository of the Hub: its files, a table for the viewer, a plot and a card.

        Args:
            repo_id: Such as `"me/my-mask"`; made where it does not exist.
            private: Whether a new repository is private; None for the account's own default.
            revision: Branch to commit to, made where it does not exist; the main one without it.
            commit_message: Of the one commit this makes.
            **links: What `hf_kcd.hub.push_mask` takes besides: `run_folder`, `student_repo`, `teacher_repo`, `soft_labels`.

        Returns:
            The commit, with its address.

        Raises:
            PermissionError: Without a login, or without the right to write.
            ConnectionError: When the Hub could not be reached or broke off; the repository is then as it was.
        """
        # By name, because this room knows none of those above it.
        publish = importlib.import_module("hf_kcd.publishing").push_mask
        return publish(self, repo_id, private=private, revision=revision, commit_message=commit_message, **links)

    def _tensor_names(self) -> list[str]:
        return [*_TENSOR_TYPES, *(name for name in _OPTIONAL_TYPES if getattr(self, name) is not None)]

    def __repr__(self) -> str:
        return (
            f"KnowledgeMask({len(self.kept)} of {self.num_points} points kept, "
            f"{int((self.partner >= 0).sum())} with a partner, stage {self.stage})"
        )


def _own(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{name} holds a {type(tensor).__name__}. Give tensors.")
    # A copy: training goes on with its tensors, and safetensors refuses two names for one memory.
    return tensor.detach().cpu().clone()


def _check_tensor(name: str, tensor: torch.Tensor, dtype: torch.dtype, length: int | None = None) -> None:
    if tensor.dtype != dtype or tensor.ndim != 1 or (length is not None and len(tensor) != length):
        expected = f"[{'*' if length is None else length}] {dtype}"
        raise ValueError(f"{name} is {list(tensor.shape)} {tensor.dtype} instead of {expected}.")


def _check_labels(labels: torch.Tensor, dataset: DatasetIdentity) -> None:
    _check_tensor("labels", labels, torch.int64, dataset.num_points)
    classes = len(dataset.class_names)
    _refuse("labels", (labels < 0) | (labels >= classes), f"is no id of {classes} classes")
    if hashlib.sha256(labels.numpy().astype("<i8").tobytes()).hexdigest() != dataset.labels:
        raise ValueError("labels are not those of the data set that the mask is about. Give them in its order.")


def _check_mixing(
    point: torch.Tensor,
    partner: torch.Tensor,
    perturbation: torch.Tensor,
    num_points: int,
    names: tuple[str, str, str],
) -> None:
    _check_tensor(names[0], point, torch.int64)
    _check_tensor(names[1], partner, torch.int64, len(point))
    _check_tensor(names[2], perturbation, torch.float32, len(point))
    _refuse(names[0], (point < 0) | (point >= num_points), f"is no id of {num_points} points")
    ids, counts = point.unique(return_counts=True)
    if len(ids) < len(point):
        raise ValueError(f"{names[0]} holds point {ids[counts > 1][0]} more than once.")
    _refuse(names[1], (partner < -1) | (partner >= num_points), f"is neither -1 nor an id of {num_points} points")
    _refuse(names[1], partner == point, "is the point itself")
    _refuse(names[2], ~((perturbation >= 0) & (perturbation <= 1)), "is no share from 0 to 1")
    _refuse(names[2], (partner < 0) & (perturbation > 0), "is above 0 without a partner")


def _refuse(name: str, wrong: torch.Tensor, why: str) -> None:
    positions = wrong.nonzero()
    if len(positions):
        raise ValueError(f"{name} {why} at position {int(positions[0])} ({len(positions)} such entries).")


def _is_plain_json(value: dict) -> bool:
    try:
        # Tuples become lists and number keys strings on the way: what does not come back as it was is not plain.
        return json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError, RecursionError):
        return False


def _fetch(repo_id: str, revision: str | None) -> Path:
    try:
        return fetch_files(repo_id, (CONFIG_FILE, TENSOR_FILE), repo_type="dataset", revision=revision)
    except OSError as error:
        raise type(error)(f"{repo_id} is no folder here. {error}") from error
    except ValueError as error:
        raise FileNotFoundError(f"{repo_id} is neither a folder nor a repository id such as 'me/my-mask'.") from error


def _read_config(path: Path, name: str) -> dict[str, Any]:
    if path.stat().st_size > _LARGEST_CONFIG:
        raise ValueError(f"{name} is {path.stat().st_size:,} bytes long, more than any mask has to say of itself.")
    config = read_description(
        path,
        _TYPE,
        _FORMAT_VERSION,
        "does not describe a knowledge mask. Give a folder that save_pretrained wrote.",
        name=name,
        required=_CONFIG_KEYS,
    )
    refuse_control_characters(config, name)
    return config


def _read_tensors(path: Path, num_points: int) -> dict[str, torch.Tensor]:
    """Read a mask's tensors, after the file's header has been looked at: no memory is taken for what no mask has."""
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            for name in names:
                found = file.get_slice(name)
                shape, type_ = list(found.get_shape()), found.get_dtype()
                match = re.fullmatch(r"mixing\.[0-9]{1,6}\.(\w+)", name)
                expected = _MIXING_TYPES.get(match[1]) if match else (_TENSOR_TYPES | _OPTIONAL_TYPES).get(name)
                if expected is None:
                    raise ValueError(f"it holds {name!r}, which is no tensor of a mask.")
                if type_ != expected or len(shape) != 1 or shape[0] > num_points:
                    raise ValueError(f"{name} is {shape} {type_} instead of [up to {num_points}] {expected}.")
            missing = [name for name in _TENSOR_TYPES if name not in names]
            if missing:
                raise ValueError(f"it lacks the tensors {', '.join(missing)}.")
            return {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"{TENSOR_FILE} is not a whole safetensors file ({error}).") from error


def _pop_history(tensors: dict[str, torch.Tensor]) -> list[tuple[torch.Tensor, ...]]:
    entries = {name for name in tensors if name.startswith("mixing.")}
    history = []
    while entries:
        keys = _mixing_keys(len(history))
        missing = [key for key in keys if key not in entries]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)} in its history of mixing.")
        history.append(tuple(tensors.pop(key) for key in keys))
        entries.difference_update(keys)
    return history


def _mixing_keys(selection: int) -> tuple[str, ...]:
    return tuple(f"mixing.{selection}.{name}" for name in _MIXING_TYPES)
