"""The knowledge mask: the condensed knowledge of a finished training as files that somebody else can train on."""

import dataclasses
import hashlib
import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import torch

from ..files import load_tensors, read_json, save_tensors, write_json
from ..identity import DatasetIdentity
from ..version import __version__

if TYPE_CHECKING:
    import huggingface_hub

TENSOR_FILE = "mask.safetensors"
CONFIG_FILE = "mask_config.json"
_TYPE = "hf_kcd.KnowledgeMask"
_FORMAT_VERSION = 1
_CONFIG_KEYS = {"type", "format_version", "library_version", "sha256", "stage", "schedule", "dataset", "provenance"}
_TENSOR_NAMES = ("kept", "partner", "perturbation", "value", "frequency")
_MIXING_NAMES = ("point", "partner", "perturbation")


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

    def __post_init__(self) -> None:
        for name in _TENSOR_NAMES:
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
            names = tuple(f"mixing_history[{selection}] {name}" for name in _MIXING_NAMES)
            if len(entry) != len(names):
                raise ValueError(
                    f"mixing_history[{selection}] has {len(entry)} parts. Give {', '.join(_MIXING_NAMES)}."
                )
            _check_mixing(*entry, num_points, names)
            _refuse(names[1], entry[1] < 0, "is missing")
        if not isinstance(self.stage, int) or self.stage < 0:
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
        tensors = {name: getattr(self, name) for name in _TENSOR_NAMES}
        for selection, entry in enumerate(self.mixing_history):
            tensors |= dict(zip(_mixing_keys(selection), entry, strict=True))
        save_tensors(folder / TENSOR_FILE, tensors)
        # The config comes last and holds the tensors' checksum, so the two are known to belong together.
        config = {
            "type": _TYPE,
            "format_version": _FORMAT_VERSION,
            "library_version": __version__,
            "sha256": _sha256(folder / TENSOR_FILE),
            "stage": self.stage,
            "schedule": self.schedule,
            "dataset": self.dataset.to_dict(),
            "provenance": self.provenance,
        }
        write_json(folder / CONFIG_FILE, config)

    @classmethod
    def from_pretrained(cls, path_or_repo: str | Path, revision: str | None = None) -> "KnowledgeMask":
        """Load a mask from a folder or from a data set repository of the Hub, of which only two files are fetched.

        Args:
            path_or_repo: A local folder, or a repository id such as `"me/my-mask"`.
            revision: Branch, tag or commit of the repository.

        Raises:
            FileNotFoundError: When there is no such folder or repository, or no mask in it.
            ValueError: When the files are damaged, of another kind, or of a newer format.
        """
        folder = Path(path_or_repo)
        if folder.is_file():
            raise FileNotFoundError(f"{folder} is a file. Give the folder that holds {CONFIG_FILE} and {TENSOR_FILE}.")
        if not folder.is_dir():
            folder = _download(str(path_or_repo), revision)
        missing = [name for name in (CONFIG_FILE, TENSOR_FILE) if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{path_or_repo} holds no knowledge mask: {' and '.join(missing)} missing. "
                f"Give a folder that save_pretrained wrote, or a repository that push_to_hub made."
            )
        config = _read_config(folder / CONFIG_FILE)
        # A file that is no safetensors at all, or cut short, has a clearer message than a wrong checksum.
        tensors, _ = load_tensors(folder / TENSOR_FILE)
        if _sha256(folder / TENSOR_FILE) != config["sha256"]:
            raise ValueError(
                f"{folder / TENSOR_FILE} is not the file that {CONFIG_FILE} describes: damaged, or of another mask. "
                f"Fetch both again."
            )
        try:
            history = _pop_history(tensors)
            if set(tensors) != set(_TENSOR_NAMES):
                raise ValueError(f"it holds the tensors {sorted(tensors)} instead of {sorted(_TENSOR_NAMES)}")
            return cls(
                **tensors,
                stage=config["stage"],
                schedule=config["schedule"],
                dataset=DatasetIdentity.from_dict(config["dataset"]),
                provenance=config["provenance"],
                mixing_history=history,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder} holds no valid knowledge mask: {error}") from error

    def push_to_hub(
        self,
        repo_id: str,
        private: bool = False,
        revision: str | None = None,
        commit_message: str = "Upload knowledge mask",
    ) -> "huggingface_hub.CommitInfo":
        """Upload the mask to a data set repository of the Hub, which is made where it does not exist.

        Args:
            repo_id: Such as `"me/my-mask"`.
            private: Whether a new repository is private.
            revision: Branch to commit to, made where it does not exist; the main one without it.
            commit_message: Of the one commit this makes.

        Returns:
            The commit, with its address.
        """
        import huggingface_hub

        api = huggingface_hub.HfApi()
        repo_id = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, repo_type="dataset", exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return api.upload_folder(
                repo_id=repo_id,
                repo_type="dataset",
                folder_path=folder,
                revision=revision,
                commit_message=commit_message,
            )

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
    except (TypeError, ValueError):
        return False


def _pop_history(tensors: dict[str, torch.Tensor]) -> list[tuple[torch.Tensor, ...]]:
    count = len({match[1] for name in tensors if (match := re.fullmatch(r"mixing\.(\d+)\.\w+", name))})
    return [tuple(tensors.pop(key) for key in _mixing_keys(selection)) for selection in range(count)]


def _mixing_keys(selection: int) -> tuple[str, ...]:
    return tuple(f"mixing.{selection}.{name}" for name in _MIXING_NAMES)


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path)
    if not isinstance(config, dict) or config.get("type") != _TYPE:
        raise ValueError(f"{path} does not describe a knowledge mask. Give a folder that save_pretrained wrote.")
    version = config.get("format_version")
    if isinstance(version, int) and version > _FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}, written by hf_kcd {config.get('library_version')}; "
            f"this hf_kcd reads up to version {_FORMAT_VERSION}. Upgrade hf_kcd."
        )
    missing = sorted(_CONFIG_KEYS - set(config))
    if version != _FORMAT_VERSION or missing:
        raise ValueError(
            f"{path} is damaged: format version {version!r}, missing {', '.join(missing) or 'nothing'}. "
            f"Fetch it again."
        )
    return config


def _download(repo_id: str, revision: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return Path(
            huggingface_hub.snapshot_download(
                repo_id, repo_type="dataset", revision=revision, allow_patterns=[CONFIG_FILE, TENSOR_FILE]
            )
        )
    except errors.HFValidationError as error:
        raise FileNotFoundError(f"{repo_id} is neither a folder nor a repository id such as 'me/my-mask'.") from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise FileNotFoundError(
            f"{repo_id} is no folder here, and no data set repository of that name "
            f"{f'and revision {revision!r} ' if revision else ''}could be fetched ({str(error).splitlines()[0]}). "
            f"Check the name, the connection, and `hf auth login` for private repositories."
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
