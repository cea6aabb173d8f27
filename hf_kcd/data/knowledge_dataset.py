"""The knowledge set as a torch data set: its length is the current number of points, its items are whole batches."""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import replace

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset, get_worker_info

from ..artifacts.classes import class_positions
from ..artifacts.identity import DatasetIdentity, find_columns
from ..condensation.mask import KnowledgeMask
from ..condensation.selection import Ids, Selection, Shares
from .augmentation import RESIZED_CROP_DRAWS, crop_and_flip, resized_crop, uniform
from .checks import checked_labels, refuse_transform
from .decoding import ImageReader, to_tensor
from .image_bank import ImageBank, mix
from .live_selection import LiveSelection
from .preprocessing import Preprocessing, preprocessing_of
from .renamed import recipe_attribute, warn_renamed
from .soft_labels import SoftLabels

Batch = dict[str, torch.Tensor]

# Two series of random numbers, so that an image is cut differently as a partner than as a point.
_POINT_STREAM, _PARTNER_STREAM = 0, 1
_FEW_IMAGES = 1000


def collate(batch: Batch) -> Batch:
    """Return the batch, which is complete already; the `collate_fn` or `data_collator` for a `KnowledgeDataset`."""
    return batch


class KnowledgeDataset(Dataset[Batch]):
    """Image classification data whose points can be selected and mixed while a loader runs over it.

    Selection and epoch live in shared memory, so that workers that outlive an epoch see them change. Images of one size
    that fit the budget are decoded once and prepared as whole batches; others are decoded by the workers.

    Args:
        dataset: A map-style data set with an image and a label column; its row number is the point id.
        preprocessing: How images are prepared; None chooses one with `guess_preprocessing`.
        training: Whether images are augmented.
        seed: Seed of the augmentation, which depends only on the seed, the epoch and the point.
        image_column, label_column: None finds them by type.
        memory_budget: Bytes that decoded images may take; 0 decodes in the workers.
        device: Where images are kept and batches are made; None means the CPU. An accelerator needs images in memory
            and a loader without workers.
        recipe: Old name of `preprocessing`.

    Attributes:
        num_points: Number of points of the whole data set, selected or not.
        num_classes, class_names, labels: The classes, in label order, and that of each point, int64 [num_points].
        labeled: Whether the points have labels. A test set without any (-1 everywhere) can only be predicted.
        image_column, label_column: Names of its columns.
        mean, std: Those of the preprocessing, pixels in [0, 1].
        identity: `DatasetIdentity` of the data set, by which masks and soft labels know it.
        found: `FoundImages`, the modes and sizes of its images.

    Raises:
        TypeError: When `dataset` is not a map-style data set.
        ValueError: When columns, labels or images are missing or do not fit, when the data set has a transform of its own,
            or a `device` has images not in memory.

    Example:
        >>> data = KnowledgeDataset(load_dataset("uoft-cs/cifar100")["train"], CIFAR_PREPROCESSING)
        >>> loader = DataLoader(data, batch_size=64, shuffle=True, collate_fn=collate)
        >>> data.select([4, 8, 15], partner=[-1, 16, 23], perturbation=[0.0, 0.0, 0.15])
        >>> len(data)
        3
    """

    recipe = recipe_attribute

    def __init__(
        self,
        dataset: datasets.Dataset,
        preprocessing: Preprocessing | None = None,
        *,
        training: bool = True,
        seed: int = 0,
        image_column: str | None = None,
        label_column: str | None = None,
        memory_budget: int = 2 * 2**30,
        device: str | torch.device | None = None,
        recipe: Preprocessing | None = None,
    ) -> None:
        if recipe is not None:
            warn_renamed("recipe=", "preprocessing=")
        image_column, label_column = find_columns(dataset, image_column, label_column)
        if len(dataset) == 0:
            raise ValueError("The data set has no points. Check the split, or the filter that made it.")
        refuse_transform(dataset)
        reader = ImageReader(dataset, image_column)
        preprocessing = preprocessing or recipe
        # Where the sizes decide nothing, fewer images show what there is.
        self.found = reader.survey() if preprocessing is None else reader.survey(limit=_FEW_IMAGES)
        self.preprocessing = preprocessing or preprocessing_of(self.found)
        self.training = training
        self.seed = seed
        self.device = torch.device(device or "cpu")
        self.soft_labels: SoftLabels | None = None
        self.num_points = len(dataset)
        self.image_column, self.label_column = image_column, label_column
        kinds = (datasets.Image, datasets.ClassLabel)
        columns = [name for name, feature in dataset.features.items() if isinstance(feature, kinds)]
        self._unread = [name for name in columns if name not in (image_column, label_column)]
        self.class_names = list(dataset.features[label_column].names)
        # In the order that the data has. That of `class_names` may become a network's (`with_classes`).
        self._given_names = tuple(self.class_names)
        self.num_classes = len(self.class_names)
        self.labels = checked_labels(dataset, label_column, self.num_classes, unlabeled=not training)
        self.labeled = bool(self.labels[0] >= 0)
        self.mean, self.std = self.preprocessing.mean, self.preprocessing.std
        self._prepared = self.preprocessing
        if not training and self.preprocessing.fit and len(self.found.sizes) > 1:
            # Images of several sizes are resized once, as timm does, not first to one size and then for the network.
            self._prepared = replace(self.preprocessing, size=self.preprocessing.network_size, resize=None)
        if not self._prepared.any_size:
            fit = self._prepared.evaluation_view if self._prepared.fit else None
            reader = ImageReader(dataset, image_column, self._prepared.size, fit)
        self._bank = ImageBank(reader, self.found, memory_budget, self.device)
        # After decoding, whose error names the point of a broken image.
        self.identity = DatasetIdentity.of(dataset, image_column, label_column)
        # One multiplication and one addition normalize the 8-bit pixels.
        mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (self.mean, self.std))
        self._scale = (1 / (255 * std)).float().to(self.device)
        self._shift = (-mean / std).float().to(self.device)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._live = LiveSelection(self.num_points)
        self._teacher_side: int | None = None

    def copy(self, blends: bool = False) -> "KnowledgeDataset":
        """Return the same points and images, with a selection, epoch and soft labels of its own.

        Args:
            blends: Whether `blend` will be called on it: then it has images of its own, too.
        """
        other = copy.copy(self)
        other._epoch = self._epoch.clone().share_memory_()
        other._live = self._live.copy()
        other._bank = self._bank.copy(blends)
        return other

    @property
    def in_memory(self) -> bool:
        """Whether the images were decoded once and are kept."""
        return self._bank.in_memory

    @property
    def selection(self) -> Selection:
        """The selected points, ascending, and what is mixed into them; a copy."""
        return Selection(*(values.clone() for values in self._live.read()))

    @property
    def selected(self) -> torch.Tensor:
        """Ids of the selected points, ascending, int64 [len(self)]; a copy."""
        return self.selection.points

    @property
    def is_changed(self) -> bool:
        """Whether points are left out or mixed, by `select` or by `blend`."""
        mixed = self._live.read().is_mixed
        return len(self) < self.num_points or bool(mixed.any()) or len(self._bank.blended()[0]) > 0

    def __len__(self) -> int:
        return len(self._live)

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the epoch, on which the augmentation depends."""
        self._epoch.fill_(epoch)

    def select_all(self) -> None:
        """Select every point without mixing."""
        self.select(torch.arange(self.num_points))

    def select(self, points: Selection | Ids, partner: Ids | None = None, perturbation: Shares | None = None) -> None:
        """Choose the points to train on from now on, and what is mixed into them.

        An image becomes `(1 - perturbation) * image + perturbation * partner's image` before augmentation (KCD, Eq. 14).

        Args:
            points: A `Selection`, or int [K] ids in any order; the data set keeps them ascending.
            partner: int [K], id mixed into each point, -1 for none.
            perturbation: float [K], share of the partner in [0, 1].

        Raises:
            ValueError: When the arguments are not as above; the selection then stays as it was.
        """
        selection = self._checked(points, partner, perturbation)
        if len(selection.points) == 0:
            raise ValueError("points is empty, and nothing can be trained on no points. Keep at least one.")
        self._live.write(selection.by_id())

    def blend(self, points: Selection | Ids, partner: Ids | None = None, perturbation: Shares | None = None) -> None:
        """Mix partners into the 8-bit images in memory; repeated calls add up, as in the released KCD program.

        The arguments are those of `select`; when they are refused, no image changes. Images are mixed in float32 and
        truncated to 8 bits until `restore_images`. Images that are not in memory raise a RuntimeError.
        """
        self._bank.blend(self._checked(points, partner, perturbation).mixed())

    def restore_images(self) -> None:
        """Undo every `blend`."""
        self._bank.restore()

    def apply(self, mask: KnowledgeMask, mixing: bool = True) -> None:
        """Select the points of a mask (KCD, Fig. 4).

        With `mixing`, borderline points are mixed as the mask records ("+VAKS"), otherwise left as they are ("+DS").
        A ValueError says that the mask belongs to another data set.
        """
        mask.check(self.identity, self.labels)
        self.restore_images()
        if mixing and not mask.mixing_history:
            self.select(mask.kept, mask.partner, mask.perturbation)
            return
        for entry in mask.mixing_history if mixing else ():
            self.blend(*entry)
        self.select(mask.kept)

    def use_soft_labels(self, soft_labels: SoftLabels | None) -> None:
        """Add a teacher's stored answers for this selection to the batches, or nothing for None.

        Epoch e then shows view e mod V, drawn with the soft labels' seed. Points selected later get NaN. Soft labels of
        other data, images or points raise a ValueError.
        """
        if soft_labels is not None:
            soft_labels.check(self.identity, self.preprocessing, self.selection_digest(), self.labels)
            soft_labels = soft_labels.with_classes(self.identity).to(self.device)
        self.soft_labels = soft_labels

    def with_classes(
        self, class_names: Sequence[str] | None, who: str = "network", whose: str = "data set"
    ) -> "KnowledgeDataset":
        """Return the data set with its labels in the order of other class names, such as a network's.

        It is the data set itself where nothing is to do. A copy shares images, selection and epoch with it, and leaves it
        as it was.

        Args:
            class_names: The same names in any order; None for a network that has none.
            who, whose: What has the names, and what this data set is, for messages.

        Raises:
            ValueError: When the names differ by more than their order, with both lists.
        """
        positions = class_positions(class_names, self.class_names, who, whose)
        if positions is None or class_names is None:
            return self
        other = copy.copy(self)
        # The last entry is that of -1, no label.
        other.labels = torch.tensor([*positions, -1])[self.labels].share_memory_()
        other.class_names = list(class_names)
        other.identity = self.identity.with_classes(class_names, [*positions, -1], self.labels)
        other.soft_labels = self.soft_labels and self.soft_labels.with_classes(other.identity)
        return other

    def columns_of(self, class_names: Sequence[str] | None, who: str) -> list[int] | None:
        """Find the columns of logits over `class_names` that bring them into the order of the classes here.

        None where they are in it. `who` gives the logits, for messages; without names it has the order that the data was
        given in. Other names raise a ValueError with both lists.
        """
        columns = class_positions(class_names, self._given_names, who, "data set")
        order = class_positions(self._given_names, self.class_names, "data set", "student")
        if columns is None or order is None:
            return order if columns is None else columns
        return [columns[position] for position in order]

    def describe(self) -> str:
        """Say in one sentence what images there are, and how they are shown."""
        text = f"{self.found}, {self.preprocessing.describe(self.training, fits=len(self.found.sizes) > 1)}"
        if self._teacher_side is not None:
            text += f"; the teacher sees the same at {self._teacher_side} x {self._teacher_side}"
        if self._unread:
            text += f"; columns {self.image_column} and {self.label_column}, not {', '.join(self._unread)}"
        return f"{text}."

    def show_teacher(self, size: int | None) -> int | None:
        """Add what a teacher of larger images sees to the batches of training, `teacher_pixel_values`, or nothing for None.

        It is the same part of each image, mirrored and mixed alike, with more of its pixels.

        Args:
            size: Height and width of the teacher's images.

        Returns:
            Height and width of `teacher_pixel_values`; None when `pixel_values` hold all that the teacher can see.
        """
        self._teacher_side = None
        preprocessing = self.preprocessing
        if self.training and size is not None and size > preprocessing.network_size:
            # Images of one size are there already, before they are resized for the student.
            side = size if preprocessing.any_size else preprocessing.size
            self._teacher_side = side if side > preprocessing.network_size else None
        return self._teacher_side

    def selection_digest(self) -> str:
        """Return a SHA-256 of the selection and its mixing by `select` and `blend`; equal digests, equal images."""
        digest = hashlib.sha256()
        for values in (*self._live.read(), *self._bank.blended()):
            digest.update(values.numpy().tobytes())
        return digest.hexdigest()

    def image(self, point_id: int) -> np.ndarray:
        """Return the image of a point to look at, uint8 [H, W, 3]: not augmented, but as `blend` left it."""
        return np.asarray(self._bank.pictures(torch.tensor([point_id]))[0])

    def __getitem__(self, position: int) -> Batch:
        return {name: values[0] for name, values in self.__getitems__([position]).items()}

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """Prepare the batch at positions 0 to `len(self) - 1` of the selection; torch's loader calls this.

        Returns:
            `pixel_values` float32 [B, 3, H, W] of the preprocessing's `network_size`, normalized; `labels` (if `labeled`),
            `point_ids` and `partner_ids` int64 [B], -1 for no partner; `perturbation` float32 [B]; with soft labels
            `teacher_logits` float32 [B, classes]; after `show_teacher`, where it gave a size, `teacher_pixel_values` float32
            [B, 3, h, w].
        """
        if self.device.type != "cpu" and get_worker_info() is not None:
            raise RuntimeError(f"Workers cannot read images on {self.device}: set dataloader_num_workers=0.")
        rows = torch.from_numpy(np.array(positions, dtype=np.int64))
        ids, partners, perturbation = (values[rows] for values in self._live.read())
        # The student's images, and behind them the teacher's where these are cut from the originals, too.
        views = self._images(ids, _POINT_STREAM)
        mixed = perturbation.nonzero()[:, 0]
        if len(mixed):
            partners_of_mixed = self._images(partners[mixed], _PARTNER_STREAM)
            share, rows = perturbation[mixed].to(self.device), mixed.to(self.device)
            views = [view.float() for view in views]
            for view, partner_images in zip(views, partners_of_mixed, strict=True):
                view.index_copy_(0, rows, mix(view.index_select(0, rows), partner_images, share))
        if self.training and self.preprocessing.augmentation in ("crop_flip", "crop"):
            views = [self._random_crop(view, ids) for view in views]
        views = [view.float().mul_(self._scale).add_(self._shift) for view in views]
        images, largest = views[0], views[-1]
        if (side := self._prepared.resize) is not None:
            images = F.interpolate(images, (side, side), mode="bilinear", antialias=side < self._prepared.size)
        batch = {
            "pixel_values": images,
            "labels": self.labels[ids].to(self.device),
            "point_ids": ids.to(self.device),
            "partner_ids": partners.to(self.device),
            "perturbation": perturbation.to(self.device),
        }
        if not self.labeled:
            del batch["labels"]
        if self._teacher_side is not None:
            batch["teacher_pixel_values"] = largest
        if self.soft_labels is not None:
            batch["teacher_logits"] = self.soft_labels.logits(batch["point_ids"], self._seed_and_view()[1])
        return batch

    def _checked(self, points: Selection | Ids, partner: Ids | None, perturbation: Shares | None) -> Selection:
        parts = points if isinstance(points, Selection) else (points, partner, perturbation)
        selection = Selection.of(*parts)
        selection.check(self.num_points)
        return selection

    def _seed_and_view(self) -> tuple[int, int]:
        """Seed and epoch of the augmentation; the views of soft labels repeat."""
        if self.soft_labels is None:
            return self.seed, int(self._epoch)
        return self.soft_labels.seed, int(self._epoch) % self.soft_labels.num_views

    def _images(self, ids: torch.Tensor, stream: int) -> list[torch.Tensor]:
        """Images of one size, uint8 [B, 3, H, W], for the student and, where they are cut from the originals, the teacher."""
        if not self.preprocessing.any_size:
            return [self._bank.read(ids)]
        pictures, sizes = self._bank.pictures(ids), [self.preprocessing.size]
        if not self.training:
            show = self.preprocessing.evaluation_view
            return [to_tensor([show(picture) for picture in pictures]).to(self.device)]
        if self._teacher_side is not None:
            sizes.append(self._teacher_side)
        draws, mirror = (
            uniform(*self._seed_and_view(), ids.numpy(), RESIZED_CROP_DRAWS, stream),
            self.preprocessing.mirrors,
        )
        return [
            to_tensor([resized_crop(one, size, row, mirror) for one, row in zip(pictures, draws, strict=True)]).to(
                self.device
            )
            for size in sizes
        ]

    def _random_crop(self, images: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        padding = self.preprocessing.padding
        draws = uniform(*self._seed_and_view(), ids.numpy(), 3)
        corners = torch.from_numpy((draws[:, :2] * (2 * padding + 1)).astype(np.int64)).to(self.device)
        mirrored = (draws[:, 2] < 0.5) & self.preprocessing.mirrors
        return crop_and_flip(images, corners[:, 0], corners[:, 1], torch.from_numpy(mirrored).to(self.device), padding)
