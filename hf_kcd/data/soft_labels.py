"""Soft labels: a teacher's answers to a fixed number of views of every selected point, packed, as files that replace it."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..artifacts.files import (
    load_tensors,
    read_description,
    refuse_control_characters,
    save_tensors,
    sha256_of,
    write_json,
)
from ..artifacts.identity import DatasetIdentity
from ..hub.download import fetch_files
from ..version import __version__
from .preprocessing import Preprocessing

TENSOR_FILE = "soft_labels.safetensors"
CONFIG_FILE = "soft_labels.json"
_TYPE = "hf_kcd.SoftLabels"
_FORMAT_VERSION = 1
_TENSORS = ("points", "codes", "low", "high", "classes", "rest")
_CODES = {8: torch.int8, 16: torch.int16}
# What decides which pixels a view has; mean and deviation are the student's own matter.
_VIEW_FIELDS = ("size", "augmentation", "padding", "resize")
_NUMBERS = ("num_points", "num_views", "num_classes", "top_k", "bits", "seed")
_LARGEST_HEADER = 2**16


@dataclasses.dataclass(frozen=True, eq=False)
class SoftLabels:
    """What a teacher said of `num_views` views of every selected point, so that a student learns from it without the teacher.

    View v of a point is its image as training shows it in epoch v: mixed as the selection says and augmented, a function of
    seed, v and the point alone. A training on soft labels shows view e mod V in epoch e, so that every stored logit belongs
    to exactly the pixels that the student sees (Beyer et al., "Knowledge distillation: A good teacher is patient and
    consistent", 2022; Shen and Xing, "A Fast Knowledge Distillation Framework for Visual Recognition", 2022).

    Each row of logits is stored as codes of 8 or 16 bits between its lowest and its highest logit, which are kept in
    float32. A logit comes back with an error of at most (highest - lowest) / 510 with 8 bits and / 131,070 with 16, besides
    float32 rounding. Of `top_k` classes alone, all other classes come back with one logit, such that their share of the
    probability at `temperature` is the teacher's.

    Args:
        points: int64 [K], ids of the points, ascending.
        codes: int8 or int16 [K, V, M], the logits' codes; M is the number of classes, or `top_k`.
        low, high: float32 [K, V], lowest and highest of the coded logits.
        classes: [K, V, M], the class of each code, in the smallest of uint8, int16 and int32; None where all are coded.
        rest: float32 [K, V], the logit of every class that is not coded; None where all are.
        temperature: At which the share of the classes that are not coded is the teacher's.
        seed: Seed of the augmentation.
        images: `Preprocessing` of the views, as a plain dict.
        selection: Digest of the selection and its mixing, `KnowledgeDataset.selection_digest`.
        teacher: The network's name.
        dataset: Which data set this is about.

    Raises:
        ValueError: When the parts do not fit together, naming the part.

    Example:
        ```python
        mask = KnowledgeMask.from_pretrained("me/wrn_16_2-kcd-cifar100-mask")
        soft_labels = SoftLabels.from_pretrained("me/wrn_16_2-kcd-cifar100-mask")
        trainer = DistillationTrainer(student, soft_labels, args, train_dataset=data, mask=mask)
        ```
    """

    points: Tensor
    codes: Tensor
    low: Tensor
    high: Tensor
    classes: Tensor | None
    rest: Tensor | None
    temperature: float
    seed: int
    images: dict[str, Any]
    selection: str
    teacher: str
    dataset: DatasetIdentity

    def __post_init__(self) -> None:
        points, codes = self.points, self.codes
        _require(points.dtype == torch.int64 and points.ndim == 1 and len(points), "points", "is no list of ids")
        _require((points[1:] > points[:-1]).all(), "points", "is not ascending, or holds an id twice")
        num_points = self.dataset.num_points
        in_range = (points[0] >= 0) & (points[-1] < num_points)
        _require(in_range, "points", f"holds an id that is none of {num_points} points")
        _require(codes.dtype in _CODES.values() and codes.ndim == 3, "codes", "is no int8 or int16 tensor [K, V, M]")
        rows = (len(points), codes.shape[1])
        _require(rows[1] > 0 and codes.shape[0] == rows[0], "codes", "does not have one row a point, or no view")
        for name in ("low", "high", "rest"):
            values = getattr(self, name)
            if values is not None:
                _require(values.dtype == torch.float32 and tuple(values.shape) == rows, name, "is no float32 [K, V]")
                _require(values.isfinite().all(), name, "is not finite")
        _require(((self.high - self.low).isfinite() & (self.high >= self.low)).all(), "high", "is below low")
        if self.classes is None:
            _require(codes.shape[2] == self.num_classes, "codes", f"is not of {self.num_classes} classes")
            _require(self.rest is None, "rest", "is given where all classes are coded")
        else:
            _require(
                0 < codes.shape[2] < self.num_classes, "codes", f"is not of fewer than {self.num_classes} classes"
            )
            dtype = _class_dtype(self.num_classes)
            _require(
                self.classes.dtype == dtype and self.classes.shape == codes.shape,
                "classes",
                f"is no {dtype} like codes",
            )
            _require(self.rest is not None, "rest", "is missing")
            ordered = self.classes.sort(dim=2).values
            in_range = (ordered[..., 0] >= 0) & (ordered[..., -1].int() < self.num_classes)
            _require(in_range.all(), "classes", f"holds one that is none of {self.num_classes}")
            _require((ordered[..., 1:] != ordered[..., :-1]).all(), "classes", "names one twice in a row")
        _require(_is_number(self.temperature) and self.temperature > 0, "temperature", "is no positive number")
        _require(type(self.seed) is int, "seed", "is no whole number")
        _require(
            isinstance(self.images, dict) and set(_VIEW_FIELDS) <= set(self.images), "images", "is no preprocessing"
        )
        _require(isinstance(self.selection, str) and len(self.selection) == 64, "selection", "is no SHA-256")
        _require(isinstance(self.teacher, str), "teacher", "is no name")

    @property
    def num_views(self) -> int:
        """Views of every point, V."""
        return self.codes.shape[1]

    @property
    def num_classes(self) -> int:
        """Classes of the data set, C."""
        return len(self.dataset.class_names)

    @property
    def top_k(self) -> int:
        """Classes of every row that have a logit of their own; 0 for all."""
        return 0 if self.classes is None else self.codes.shape[2]

    @property
    def bits(self) -> int:
        """Bits of a logit, 8 or 16."""
        return 8 * self.codes.element_size()

    @staticmethod
    def num_bytes(num_points: int, num_views: int, num_classes: int, top_k: int = 0, bits: int = 8) -> int:
        """Compute how many bytes the tensors of soft labels take, before they are made; the files add a few kilobytes.

        Args:
            num_points: Selected points.
            num_views: Views of each.
            num_classes: Classes of the data set.
            top_k: Classes of each row that are stored; 0 or all classes: all.
            bits: Bits of a logit, 8 or 16.

        Raises:
            ValueError: For numbers that cannot be.
        """
        check_packing(num_views, num_classes, top_k, bits)
        row = 2 * torch.float32.itemsize
        if 0 < top_k < num_classes:
            row += top_k * (bits // 8 + _class_dtype(num_classes).itemsize) + torch.float32.itemsize
        else:
            row += num_classes * bits // 8
        return num_points * (torch.int64.itemsize + num_views * row)

    def logits(self, point_ids: Tensor, views: Tensor | int) -> Tensor:
        """Unpack the logits of points, on the device that the soft labels are on, without a host sync.

        Args:
            point_ids: int64 [B].
            views: View of each point, int64 [B], or one for all.

        Returns:
            float32 [B, num_classes]; NaN for a point that has no soft labels.
        """
        rows = torch.searchsorted(self.points, point_ids).clamp(max=len(self.points) - 1)
        low, high = self.low[rows, views, None], self.high[rows, views, None]
        offset, levels = 2 ** (self.bits - 1), 2**self.bits - 1
        logits = (self.codes[rows, views].float() + offset) * ((high - low) / levels) + low
        if self.classes is not None:
            rest = self.rest[rows, views, None].repeat(1, self.num_classes)
            logits = rest.scatter_(1, self.classes[rows, views].long(), logits)
        return logits.masked_fill((self.points[rows] != point_ids)[:, None], math.nan)

    def to(self, device: torch.device | str) -> "SoftLabels":
        """Put the tensors on a device."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        return dataclasses.replace(self, **{n: None if t is None else t.to(device) for n, t in tensors.items()})

    def check(self, dataset: DatasetIdentity, preprocessing: Preprocessing, selection: str) -> None:
        """Make sure that a training shows exactly the images that the teacher answered.

        Args:
            dataset: Its data set.
            preprocessing: How its images are prepared.
            selection: Digest of its selection.

        Raises:
            ValueError: When something differs, saying what.
        """
        difference = self.dataset.difference(dataset)
        if difference:
            raise ValueError(
                f"These soft labels are not about this data set: {difference}. Load the split that they were made on, in its "
                "original order."
            )
        for name in _VIEW_FIELDS:
            if self.images[name] != getattr(preprocessing, name):
                raise ValueError(
                    f"These soft labels are of images prepared otherwise: {name} is {self.images[name]!r} there and "
                    f"{getattr(preprocessing, name)!r} here. Prepare the images as they were, or make soft labels for these."
                )
        if self.selection != selection:
            raise ValueError(
                f"These soft labels are of another selection: theirs has {len(self.points)} points, and kept points, partners "
                "and their shares must be the same. Pass the mask that they were published with, mixed as it was "
                "(mask_mixing) when they were made."
            )

    def description(self) -> dict[str, Any]:
        """Describe the soft labels, as plain JSON values.

        Returns:
            `num_points`, `num_views`, `num_classes`, `top_k` (0 for all), `bits`, `temperature`, `seed`, `teacher`, `images`
            and `bytes` of the tensors.
        """
        size = (len(self.points), self.num_views, self.num_classes, self.top_k, self.bits)
        return {
            **dict(zip(_NUMBERS[:5], size, strict=True)),
            "temperature": self.temperature,
            "seed": self.seed,
            "teacher": self.teacher,
            "images": {
                name: list(value) if isinstance(value, tuple) else value for name, value in self.images.items()
            },
            "bytes": self.num_bytes(*size),
        }

    def save(self, folder: str | Path) -> None:
        """Write `soft_labels.safetensors` and then `soft_labels.json`; other files in the folder are left alone.

        Args:
            folder: Where to write; it is made.

        Raises:
            OSError: When it cannot be written.
        """
        folder = Path(folder)
        tensors = {name: getattr(self, name) for name in _TENSORS}
        save_tensors(folder / TENSOR_FILE, {name: tensor for name, tensor in tensors.items() if tensor is not None})
        # The description comes last and holds the tensors' checksum, so the two are known to belong together.
        config = {
            "type": _TYPE,
            "format_version": _FORMAT_VERSION,
            "library_version": __version__,
            "sha256": sha256_of(folder / TENSOR_FILE),
            **self.description(),
            "selection": self.selection,
            "dataset": self.dataset.to_dict(),
        }
        write_json(folder / CONFIG_FILE, config)

    @classmethod
    def load(cls, folder: str | Path, name: str | None = None) -> "SoftLabels":
        """Load soft labels from a folder; the description is checked, and the files' sizes, before any tensor is read.

        Args:
            folder: What `save` wrote, beside a mask or alone.
            name: What errors call it; the folder without it.

        Raises:
            FileNotFoundError: When it holds none.
            ValueError: When the files are damaged, of another kind, or of a newer format.
        """
        folder, name = Path(folder), name or str(folder)
        missing = [file for file in (CONFIG_FILE, TENSOR_FILE) if not (folder / file).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{name} holds no soft labels: {' and '.join(missing)} missing. Masks come with them when they were published "
                "with hf-kcd push --with_soft_labels; learn from the teacher otherwise."
            )
        path = folder / TENSOR_FILE
        config = _read_config(folder / CONFIG_FILE)
        try:
            dataset = DatasetIdentity.from_dict(config["dataset"])
            size = [config[number] for number in _NUMBERS[:5]]
            payload = cls.num_bytes(*size)
            _require(size[0] > 0 and size[2] == len(dataset.class_names), "num_points", "or num_classes cannot be")
            excess = path.stat().st_size - payload
            _require(0 < excess < _LARGEST_HEADER, TENSOR_FILE, f"does not have the {payload:,} bytes described")
            _require(sha256_of(path) == config["sha256"], TENSOR_FILE, f"is not the file that {CONFIG_FILE} describes")
            tensors, _ = load_tensors(path)
            names = set(_TENSORS) - (set() if 0 < size[3] < size[2] else {"classes", "rest"})
            _require(set(tensors) == names, TENSOR_FILE, f"holds {sorted(tensors)} instead of {sorted(names)}")
            own = {field: config[field] for field in ("temperature", "seed", "images", "selection", "teacher")}
            soft_labels = cls(**{"classes": None, "rest": None, **tensors}, **own, dataset=dataset)
            found = soft_labels.description()
            for number in _NUMBERS:
                agrees = found[number] == config[number]
                _require(agrees, number, f"is {config[number]}, of the tensors it is {found[number]}")
            return soft_labels
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise ValueError(f"{name} holds no valid soft labels: {error} Fetch both files again.") from error

    @classmethod
    def from_pretrained(cls, path_or_repo: str | Path, revision: str | None = None) -> "SoftLabels":
        """Load the soft labels beside a mask, from its folder or its data set repository of the Hub.

        Args:
            path_or_repo: A local folder, or a repository id such as `"me/my-mask"`.
            revision: Branch, tag or commit of the repository.

        Raises:
            FileNotFoundError: When there is no such folder or repository, or no soft labels in it.
            PermissionError, ConnectionError: When the repository cannot be read.
            ValueError: When the files are damaged, of another kind, or of a newer format.
        """
        if Path(path_or_repo).is_dir():
            return cls.load(path_or_repo)
        files = (CONFIG_FILE, TENSOR_FILE)
        folder = fetch_files(str(path_or_repo), (), files, repo_type="dataset", revision=revision)
        return cls.load(folder, str(path_or_repo))

    def __repr__(self) -> str:
        stored = f"the first {self.top_k}" if self.top_k else "all"
        return (
            f"SoftLabels({len(self.points)} points, {self.num_views} views, {stored} of {self.num_classes} classes in "
            f"{self.bits} bits, by {self.teacher})"
        )


def pack_logits(logits: Tensor, top_k: int, bits: int, temperature: float) -> dict[str, Tensor | None]:
    """Pack rows of logits as `SoftLabels` holds them.

    Args:
        logits: Finite logits [B, classes] of any floating type.
        top_k: Classes of each row that are coded; 0 for all.
        bits: 8 or 16.
        temperature: At which the share of the other classes stays what it is.

    Returns:
        `codes` [B, M], `low`, `high` [B], and where `top_k` is given `classes` [B, M] and `rest` [B].
    """
    logits = logits.double()
    num_classes = logits.shape[1]
    coded, classes = (logits, None) if not 0 < top_k < num_classes else logits.topk(top_k)
    # In the float32 that they are stored in, so that codes are rounded to what comes back.
    low, high = coded.amin(1).float(), coded.amax(1).float()
    offset, levels = 2 ** (bits - 1), 2**bits - 1
    step = ((high - low) / levels).double()[:, None]
    codes = ((coded - low.double()[:, None]) / step.where(step > 0, 1)).round().clamp(0, levels)
    packed = {"codes": (codes - offset).to(_CODES[bits]), "low": low, "high": high, "classes": None, "rest": None}
    if classes is None:
        return packed
    # (C - k) exp(rest / T) is to the decoded classes what the others were to the coded ones.
    others = torch.logsumexp((logits / temperature).scatter(1, classes, -math.inf), 1)
    decoded = codes * step + low.double()[:, None]
    shift = torch.logsumexp(decoded / temperature, 1) - torch.logsumexp(coded / temperature, 1)
    rest = temperature * (others + shift - math.log(num_classes - top_k))
    return packed | {"classes": classes.to(_class_dtype(num_classes)), "rest": rest.float()}


def check_packing(num_views: int, num_classes: int, top_k: int, bits: int) -> None:
    """Refuse numbers that soft labels cannot be made with.

    Args:
        num_views: Views of every point.
        num_classes: Classes of the data set.
        top_k: Classes of each row that are stored; 0 for all.
        bits: Bits of a logit.

    Raises:
        ValueError: Naming the number and its value.
    """
    if type(num_views) is not int or num_views < 1:
        raise ValueError(f"num_views is {num_views!r}: give at least 1 view of every point.")
    if type(top_k) is not int or not 0 <= top_k <= num_classes:
        raise ValueError(f"top_k is {top_k!r}: give 1 to {num_classes} classes, or 0 for all.")
    if bits not in _CODES:
        raise ValueError(f"bits is {bits!r}: a logit is stored in 8 or 16 bits.")


def _class_dtype(num_classes: int) -> torch.dtype:
    return torch.uint8 if num_classes <= 2**8 else torch.int16 if num_classes <= 2**15 else torch.int32


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _require(condition: Tensor | bool | int, name: str, why: str) -> None:
    if not condition:
        raise ValueError(f"{name} {why}.")


def _read_config(path: Path) -> dict[str, Any]:
    config = read_description(
        path, _TYPE, _FORMAT_VERSION, "does not describe soft labels. Give a folder that SoftLabels.save wrote."
    )
    refuse_control_characters(config, str(path))
    for name in _NUMBERS:
        if type(config.get(name)) is not int:
            raise ValueError(f"{path} is damaged: {name} is {config.get(name)!r}, no whole number. Fetch it again.")
    return config
