"""Soft labels: a teacher's logits for a fixed number of views of every selected point, packed, in place of the teacher."""

import dataclasses
import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from ..artifacts.artifact import Artifact, Facts, Layout, Tensors
from ..artifacts.classes import class_positions
from ..artifacts.identity import DatasetIdentity
from .packing import CODES, packed_layout, unpack_logits
from .preprocessing import Preprocessing

_PACKED = ("codes", "low", "high", "classes", "rest")
# What decides the pixels of a view; mean and deviation are the student's.
_VIEW_FIELDS = ("size", "augmentation", "padding", "resize")
_SIZE = ("num_points", "num_views", "num_classes", "top_k", "bits")
_OWN = ("temperature", "seed", "images", "selection", "teacher")


@dataclasses.dataclass(frozen=True, eq=False)
class SoftLabels(Artifact):
    """A teacher's logits for `num_views` views of every selected point: a student learns from them without the teacher.

    View v of a point is its image as training shows it in epoch v: mixed as the selection says, and augmented as a
    function of seed, v and the point alone. Training on soft labels shows view e mod V in epoch e, so every stored logit
    belongs to exactly the pixels that the student sees (Beyer et al., "Knowledge distillation: A good teacher is patient
    and consistent", 2022; Shen and Xing, "A Fast Knowledge Distillation Framework for Visual Recognition", 2022).

    Each row of logits is stored as codes of 8 or 16 bits between its lowest and its highest logit, which are kept in
    float32. The error of a logit is at most (highest - lowest) / 510 with 8 bits and / 131,070 with 16, plus float32
    rounding. With `top_k`, all other classes share one logit, chosen such that their share of the probability at
    `temperature` is the teacher's.

    Args:
        points: int64 [K], ids of the points, ascending.
        codes: int8 or int16 [K, V, M], the logits' codes; M is the number of classes, or `top_k`.
        low, high: float32 [K, V], lowest and highest of the coded logits.
        classes: [K, V, M], the class of each code, in the smallest of uint8, int16 and int32; None when all are coded.
        rest: float32 [K, V], the logit of every class that is not coded; None when all are.
        temperature: At which the share of the classes that are not coded is the teacher's.
        seed, images: Seed of the augmentation, and the `Preprocessing` of the views as a plain dict.
        selection, dataset: Digest of the selection (`KnowledgeDataset.selection_digest`), identity of the data set.
        teacher: The network's name.

    Raises:
        ValueError: When the parts do not fit together, naming the part.

    Example:
        ```python
        mask = KnowledgeMask.from_pretrained("me/wrn_16_2-kcd-cifar100-mask")
        soft_labels = SoftLabels.from_pretrained("me/wrn_16_2-kcd-cifar100-mask")
        trainer = DistillationTrainer(student, soft_labels, args, train_dataset=data, mask=mask)
        ```
    """

    NAME = "soft labels"
    TYPE = "hf_kcd.SoftLabels"
    CONFIG_FILE = "soft_labels.json"
    TENSOR_FILE = "soft_labels.safetensors"
    FACTS = (*_SIZE, *_OWN, "dataset")
    ADVICE = "A mask has soft labels when it was published with hf-kcd push --with_soft_labels; otherwise learn from the teacher."

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
        points, codes, num_points, num_classes = self.points, self.codes, self.dataset.num_points, self.num_classes
        _require(
            codes.dtype in CODES.values() and codes.ndim == 3, "codes", "is not an int8 or int16 tensor [K, V, M]"
        )
        layout = packed_layout(len(points), self.num_views, num_classes, self.top_k, self.bits)
        for name in ("classes", "rest"):
            coded = "is given although all classes are coded" if name not in layout else "is missing"
            _require((getattr(self, name) is None) == (name not in layout), name, coded)
        for name, tensor in self.tensors().items():
            dtype, shape = layout[name]
            fits = tensor.dtype == dtype and tuple(tensor.shape) == shape
            _require(fits, name, f"is {list(tensor.shape)} {tensor.dtype} instead of {list(shape)} {dtype}")
            _require(not dtype.is_floating_point or tensor.isfinite().all(), name, "is not finite")
        _require(len(points), "points", "is empty")
        _require((points[1:] > points[:-1]).all(), "points", "is not ascending, or holds an id twice")
        in_range = (points[0] >= 0) & (points[-1] < num_points)
        _require(in_range, "points", f"holds an id outside 0 to {num_points - 1}")
        _require(((self.high - self.low).isfinite() & (self.high >= self.low)).all(), "high", "is below low")
        if self.classes is not None:
            ordered = self.classes.sort(dim=2).values
            in_range = (ordered[..., 0] >= 0) & (ordered[..., -1].int() < num_classes)
            _require(in_range.all(), "classes", f"holds a class outside 0 to {num_classes - 1}")
            _require((ordered[..., 1:] != ordered[..., :-1]).all(), "classes", "names one twice in a row")
        # JSON can hold integers that no float can.
        number = type(self.temperature) in (int, float) and 0 < self.temperature < 1e308
        _require(number, "temperature", "is not a positive number")
        _require(type(self.seed) is int, "seed", "is not a whole number")
        prepared = isinstance(self.images, dict) and set(_VIEW_FIELDS) <= set(self.images)
        _require(prepared, "images", "is not a preprocessing")
        _require(isinstance(self.selection, str) and len(self.selection) == 64, "selection", "is not a SHA-256")
        _require(isinstance(self.teacher, str), "teacher", "is not a name")

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
        """Compute how many bytes the tensors take, before they are made; `top_k` is 0 for all classes, `bits` 8 or 16."""
        layout = packed_layout(num_points, num_views, num_classes, top_k, bits)
        return sum(dtype.itemsize * math.prod(shape) for dtype, shape in layout.values())

    def logits(self, point_ids: Tensor, views: Tensor | int) -> Tensor:
        """Unpack the logits of points [B], without a host sync: float32 [B, num_classes], NaN for points without any.

        `views` is the view of each point, int64 [B], or one for all.
        """
        rows = torch.searchsorted(self.points, point_ids).clamp(max=len(self.points) - 1)
        packed: dict[str, Any] = {
            name: tensor if tensor is None else tensor[rows, views] for name, tensor in self._packed().items()
        }
        logits = unpack_logits(**packed, num_classes=self.num_classes)
        return logits.masked_fill((self.points[rows] != point_ids)[:, None], math.nan)

    def to(self, device: torch.device | str) -> "SoftLabels":
        """Put the tensors on a device."""
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return dataclasses.replace(self, **moved)

    def with_classes(self, dataset: DatasetIdentity) -> "SoftLabels":
        """Put the logits in the order of a data set's classes; `dataset` is this one, with its classes in any order."""
        positions = class_positions(self.dataset.class_names, dataset.class_names, self.NAME, "data set")
        if positions is None:
            return self
        codes, classes = self.codes, self.classes
        if classes is None:
            codes = codes[:, :, positions]
        else:
            classes = torch.tensor(positions, device=classes.device).argsort()[classes.long()].to(classes.dtype)
        return dataclasses.replace(self, codes=codes, classes=classes, dataset=dataset)

    def check(
        self, dataset: DatasetIdentity, preprocessing: Preprocessing, selection: str, labels: Tensor | None = None
    ) -> None:
        """Make sure that a training with this selection's digest shows exactly the images that the teacher answered.

        With `labels`, int64 [N] of the data set, its classes may have another order than here.
        """
        self.check_dataset(dataset, labels)
        for name in _VIEW_FIELDS:
            there, here = self.images[name], getattr(preprocessing, name)
            if there != here:
                raise ValueError(
                    f"The soft labels are of images prepared otherwise: {name} is {there!r} there and {here!r} here. Prepare "
                    "the images in the same way, or make soft labels for these."
                )
        if self.selection != selection:
            raise ValueError(
                f"The soft labels are of another selection: theirs has {len(self.points)} points, and kept points, partners "
                "and shares must be the same. Pass the mask that they were published with, mixed as it was (mask_mixing)."
            )

    def description(self) -> Facts:
        """Describe size, temperature, seed, teacher and images of the soft labels, and their bytes, as plain JSON values."""
        size = (len(self.points), self.num_views, self.num_classes, self.top_k, self.bits)
        images = {name: list(value) if isinstance(value, tuple) else value for name, value in self.images.items()}
        about = {"temperature": self.temperature, "seed": self.seed, "teacher": self.teacher, "images": images}
        return {**dict(zip(_SIZE, size, strict=True)), **about, "bytes": self.num_bytes(*size)}

    def tensors(self) -> Tensors:
        packed = {name: tensor for name, tensor in self._packed().items() if tensor is not None}
        return {"points": self.points, **packed}

    def _packed(self) -> dict[str, Tensor | None]:
        return {name: getattr(self, name) for name in _PACKED}

    def facts(self) -> Facts:
        return {**self.description(), "selection": self.selection, "dataset": self.dataset.to_dict()}

    @classmethod
    def layout(cls, facts: Facts, dataset: DatasetIdentity, names: Collection[str]) -> Layout:
        for name in _SIZE:
            _require(type(facts[name]) is int, name, f"is {facts[name]!r}, no whole number")
        return packed_layout(*(facts[name] for name in _SIZE))

    @classmethod
    def from_parts(cls, tensors: Tensors, facts: Facts, dataset: DatasetIdentity) -> "SoftLabels":
        parts: dict[str, Any] = {"classes": None, "rest": None, **tensors, **{name: facts[name] for name in _OWN}}
        soft_labels = cls(**parts, dataset=dataset)
        found = soft_labels.description()
        for name in _SIZE:
            _require(found[name] == facts[name], name, f"is {facts[name]}, but {found[name]} in the tensors")
        return soft_labels

    def __repr__(self) -> str:
        size = f"{len(self.points)} points, {self.num_views} views"
        stored = f"{f'the first {self.top_k}' if self.top_k else 'all'} of {self.num_classes} classes"
        return f"SoftLabels({size}, {stored} in {self.bits} bits, by {self.teacher})"


def _require(condition: Tensor | bool | int, name: str, why: str) -> None:
    if not condition:
        raise ValueError(f"{name} {why}.")
