"""The knowledge set as a torch data set: its length is the number of points selected now, its items are batches."""

import hashlib
from collections.abc import Sequence

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import Dataset, get_worker_info

from ..artifacts.identity import DatasetIdentity, find_columns
from .augmentation import RESIZED_CROP_DRAWS, centre_crop, crop_and_flip, resized_crop, uniform
from .decoding import ImageReader, decode_all, to_tensor
from .preprocessing import Preprocessing, guess_preprocessing
from .soft_labels import SoftLabels

Batch = dict[str, torch.Tensor]
Indices = torch.Tensor | np.ndarray | Sequence[int]
Numbers = torch.Tensor | np.ndarray | Sequence[float]

_BLEND_CHUNK = 4096
# Separate series of random numbers, so that an image is cut otherwise as a partner than as a point.
_POINT_STREAM, _PARTNER_STREAM = 0, 1


def collate(batch: Batch) -> Batch:
    """Hand on a batch that is one already; the `collate_fn` or `data_collator` for a `KnowledgeDataset`."""
    return batch


class KnowledgeDataset(Dataset):
    """Image classification data whose points can be selected, mixed and counted while a loader runs over it.

    Selection and epoch live in shared memory and are written in place, so that workers that outlive an epoch see them
    (a copy would go on training on points that were dropped). Images of one size that fit the budget are decoded once
    and prepared as whole batches; others are decoded by the workers.

    Args:
        dataset: A map-style data set with an image and a label column; its row number is the point id.
        preprocessing: How images are prepared; without it what `guess_preprocessing` finds fitting.
        training: Whether images are augmented.
        seed: Seed of the augmentation, which depends on it, the epoch and the point alone.
        image_column: Name of the image column, found by type without it.
        label_column: Name of the label column, found by type without it.
        memory_budget: Bytes that decoded images may take; 0 decodes in the workers.
        device: Where images are kept and batches come out; the CPU without it. An accelerator needs images that are
            in memory, and a loader without workers.

    Raises:
        TypeError: When `dataset` is no map-style data set.
        ValueError: For missing columns, no points, labels out of range, broken images, images that do not fit the
            preprocessing, or a `device` for images that are not in memory.

    Example:
        >>> data = KnowledgeDataset(load_dataset("uoft-cs/cifar100")["train"], CIFAR_PREPROCESSING)
        >>> loader = DataLoader(data, batch_size=64, shuffle=True, collate_fn=collate)
        >>> data.select([4, 8, 15], partner=[-1, 16, 23], perturbation=[0.0, 0.0, 0.15])
        >>> len(data)
        3
    """

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
    ) -> None:
        image_column, label_column = find_columns(dataset, image_column, label_column)
        if len(dataset) == 0:
            raise ValueError("The data set has no points. Check the split, or the filter that made it.")
        self.preprocessing = preprocessing = preprocessing or guess_preprocessing(dataset, image_column)
        self.training = training
        self.seed = seed
        self.device = torch.device(device or "cpu")
        self.soft_labels: SoftLabels | None = None
        self.class_names = list(dataset.features[label_column].names)
        self.labels = _read_labels(dataset, label_column, len(self.class_names))
        reader = ImageReader(dataset, image_column, None if preprocessing.any_size else preprocessing.size)
        bank = decode_all(reader, memory_budget)
        if bank is None and self.device.type != "cpu":
            raise ValueError(
                f"Images can be kept on {self.device} only when all have one size and take at most {memory_budget} "
                "bytes. Leave device out and use workers, or raise memory_budget."
            )
        # After decoding, which names the point of a broken image.
        self.identity = DatasetIdentity.of(dataset, image_column, label_column)
        self._bank = None if bank is None else bank.to(self.device)
        # A reader holds the data set: without it a spawned worker is sent handles of shared memory and no image.
        self._reader = reader if bank is None else None
        self._original_ids = torch.empty(0, dtype=torch.int64)
        self._original_rows = torch.empty(0, dtype=torch.uint8)
        # Pixels are normalised from their 8-bit scale, by one multiplication and one addition.
        mean, std = (
            torch.tensor(values, dtype=torch.float64).view(3, 1, 1)
            for values in (preprocessing.mean, preprocessing.std)
        )
        self._scale = (1 / (255 * std)).float().to(self.device)
        self._shift = (-mean / std).float().to(self.device)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._count = torch.zeros((), dtype=torch.int64).share_memory_()
        self._selected = torch.zeros(len(dataset), dtype=torch.int64).share_memory_()
        self._partner = torch.zeros(len(dataset), dtype=torch.int64).share_memory_()
        self._perturbation = torch.zeros(len(dataset), dtype=torch.float32).share_memory_()
        self.select_all()

    @property
    def num_points(self) -> int:
        """Number of points of the whole data set, selected or not."""
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean of the preprocessing, pixels in [0, 1]."""
        return self.preprocessing.mean

    @property
    def std(self) -> tuple[float, float, float]:
        """Standard deviation of the preprocessing, pixels in [0, 1]."""
        return self.preprocessing.std

    @property
    def in_memory(self) -> bool:
        """Whether the images were decoded once and are kept."""
        return self._bank is not None

    @property
    def selected(self) -> torch.Tensor:
        """Ids of the selected points, ascending, int64 [len(self)]; a copy."""
        return self._selected[: len(self)].clone()

    def __len__(self) -> int:
        return int(self._count)

    def set_epoch(self, epoch: int) -> None:
        """Number of the epoch that the augmentation depends on."""
        self._epoch.fill_(epoch)

    def select_all(self) -> None:
        """Select every point, none of them mixed."""
        self.select(torch.arange(self.num_points))

    def select(self, kept: Indices, partner: Indices | None = None, perturbation: Numbers | None = None) -> None:
        """Choose the points that there are from now on, and what is mixed into them.

        A selected image becomes `(1 - perturbation) * image + perturbation * image of the partner` (KCD paper, Eq. 14
        in its convex form) before it is augmented.

        Args:
            kept: int [K], ids of the points, in any order: the data set keeps them ascending.
            partner: int [K] aligned with `kept`, id of the point mixed in, -1 for none.
            perturbation: float [K] aligned with `kept`, its share, in [0, 1].

        Raises:
            ValueError: When an argument is not as above; the selection is then what it was.
        """
        kept = _as_ids("kept", kept, self.num_points)
        if len(kept) == 0:
            raise ValueError("kept is empty: a data set without points cannot be trained on. Keep at least one.")
        _refuse_duplicates("kept", kept)
        if (partner is None) != (perturbation is None):
            raise ValueError("partner and perturbation belong together: give both, or neither.")
        if partner is None:
            partner, perturbation = torch.full_like(kept, -1), torch.zeros(len(kept))
        partner = _as_ids("partner", partner, self.num_points, lowest=-1, length=len(kept))
        perturbation = _as_shares(perturbation, len(kept))
        kept, order = kept.sort()
        self._selected[: len(kept)] = kept
        self._partner[: len(kept)] = partner[order]
        self._perturbation[: len(kept)] = perturbation[order]
        self._count.fill_(len(kept))

    def blend(self, points: Indices, partners: Indices, perturbations: Numbers) -> None:
        """Mix partners into the kept 8-bit images for good: repeated calls add up, as in the released KCD program.

        An image becomes `(1 - perturbation) * image + perturbation * image of the partner` in float32, truncated to
        8 bits. All partners are read before any point is written.

        Args:
            points: int [P], ids of the points that change.
            partners: int [P], ids of the points mixed in.
            perturbations: float [P], their shares, in [0, 1].

        Raises:
            ValueError: When an argument is not as above; no image is then changed.
            RuntimeError: When the images are not in memory.
        """
        bank = self._bank
        if bank is None:
            raise RuntimeError(
                "Blending changes kept images, and these are decoded anew each time. Raise memory_budget for images of "
                "one size, or mix while loading: select(kept, partner, perturbation)."
            )
        points = _as_ids("points", points, self.num_points)
        _refuse_duplicates("points", points)
        partners = _as_ids("partners", partners, self.num_points, length=len(points))
        perturbations = _as_shares(perturbations, len(points), name="perturbations").to(self.device)
        unsaved = points[~torch.isin(points, self._original_ids)]
        self._original_rows = torch.cat([self._original_rows, bank[unsaved.to(self.device)].cpu()])
        self._original_ids = torch.cat([self._original_ids, unsaved])
        points, mixed_in = points.to(self.device), bank[partners.to(self.device)]
        for chunk in torch.arange(len(points), device=self.device).split(_BLEND_CHUNK):
            mixed = _mix(bank[points[chunk]], mixed_in[chunk], perturbations[chunk])
            bank[points[chunk]] = mixed.to(torch.uint8)

    def apply(self, mask, mixing: bool = True) -> None:
        """Select a mask's points."""
        mask.check(self.identity)
        self.restore_images()
        if mixing and mask.mixing_history:
            for points, partners, perturbations in mask.mixing_history:
                self.blend(points, partners, perturbations)
            self.select(mask.kept)
        elif mixing:
            self.select(mask.kept, mask.partner, mask.perturbation)
        else:
            self.select(mask.kept)

    def restore_images(self) -> None:
        """Undo every `blend`; images that are not in memory were never blended."""
        if self._bank is not None:
            rows = self._original_rows.to(self.device).view(-1, *self._bank.shape[1:])
            self._bank[self._original_ids.to(self.device)] = rows
            self._original_ids, self._original_rows = self._original_ids[:0], self._original_rows[:0]

    def use_soft_labels(self, soft_labels: SoftLabels | None) -> None:
        """Put a teacher's stored answers into the batches from now on, and show the views that they belong to.

        Epoch e then shows view e mod V, drawn with the soft labels' seed. What is selected must stay as it is: points
        without soft labels get NaN.

        Args:
            soft_labels: Those of this selection; None for batches without.

        Raises:
            ValueError: When they are of other data, images or points.
        """
        if soft_labels is not None:
            soft_labels.check(self.identity, self.preprocessing, self.selection_digest())
            soft_labels = soft_labels.to(self.device)
        self.soft_labels = soft_labels

    def selection_digest(self) -> str:
        """SHA-256 of what is selected and what is mixed into it, by `select` and by `blend`: equal ones show equal images."""
        digest = hashlib.sha256()
        for values in (self._selected, self._partner, self._perturbation):
            digest.update(values[: len(self)].numpy().tobytes())
        blended = self._original_ids.sort().values
        digest.update(blended.numpy().tobytes())
        if len(blended):
            digest.update(self._bank[blended.to(self.device)].cpu().numpy().tobytes())
        return digest.hexdigest()

    def image(self, point_id: int) -> np.ndarray:
        """One image as people look at it: not augmented, with what `blend` put into it.

        Args:
            point_id: Id of the point.

        Returns:
            uint8 [H, W, 3].
        """
        if self._reader is not None:
            return np.asarray(self._reader.read([point_id])[0])
        return self._bank[point_id].permute(1, 2, 0).contiguous().cpu().numpy()

    def __getitem__(self, position: int) -> Batch:
        return {name: values[0] for name, values in self.__getitems__([position]).items()}

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """Prepare a whole batch; torch's loader calls this where it exists.

        Args:
            positions: Positions in the selection, 0 to `len(self) - 1`.

        Returns:
            `pixel_values` float32 [B, 3, H, W] of the preprocessing's `network_size`, normalised; `labels` int64 [B]; `point_ids` int64 [B];
            `partner_ids` int64 [B], -1 for none; `perturbation` float32 [B]; with soft labels `teacher_logits` float32
            [B, classes].

        Raises:
            IndexError: For a position out of range.
            RuntimeError: When a worker is asked for images that live on an accelerator.
        """
        if self.device.type != "cpu" and get_worker_info() is not None:
            raise RuntimeError(f"Images on {self.device} cannot be read by workers: set dataloader_num_workers=0.")
        positions = torch.from_numpy(np.array(positions, dtype=np.int64))
        ids, partners, perturbation = (
            values[: len(self)][positions] for values in (self._selected, self._partner, self._perturbation)
        )
        images = self._images(ids, _POINT_STREAM)
        mixed = ((partners >= 0) & (perturbation > 0)).nonzero()[:, 0]
        if len(mixed):
            rows = mixed.to(self.device)
            images = images.float()
            partner_images = self._images(partners[mixed], _PARTNER_STREAM)
            blended = _mix(images.index_select(0, rows), partner_images, perturbation[mixed].to(self.device))
            images.index_copy_(0, rows, blended)
        if self.training and self.preprocessing.augmentation in ("crop_flip", "crop"):
            images = self._random_crop(images, ids)
        images = images.float().mul_(self._scale).add_(self._shift)
        if self.preprocessing.resize is not None:
            side = self.preprocessing.resize
            images = F.interpolate(images, (side, side), mode="bilinear", antialias=side < self.preprocessing.size)
        batch = {
            "pixel_values": images,
            "labels": self.labels[ids].to(self.device),
            "point_ids": ids.to(self.device),
            "partner_ids": partners.to(self.device),
            "perturbation": perturbation.to(self.device),
        }
        if self.soft_labels is not None:
            batch["teacher_logits"] = self.soft_labels.logits(batch["point_ids"], self._seed_and_view()[1])
        return batch

    def _seed_and_view(self) -> tuple[int, int]:
        """What augmentation is drawn with: of soft labels the views come round again, otherwise every epoch is a new one."""
        if self.soft_labels is None:
            return self.seed, int(self._epoch)
        return self.soft_labels.seed, int(self._epoch) % self.soft_labels.num_views

    def _images(self, ids: torch.Tensor, stream: int) -> torch.Tensor:
        if not self.preprocessing.any_size:
            if self._bank is not None:
                return self._bank.index_select(0, ids.to(self.device))
            return to_tensor(self._reader.read(ids.tolist()))
        if self._bank is not None:
            pixels = self._bank.index_select(0, ids.to(self.device)).permute(0, 2, 3, 1).cpu().numpy()
            originals = [Image.fromarray(row) for row in pixels]
        else:
            originals = self._reader.read(ids.tolist())
        size = self.preprocessing.size
        if not self.training:
            return to_tensor([centre_crop(image, size) for image in originals]).to(self.device)
        draws = uniform(*self._seed_and_view(), ids.numpy(), RESIZED_CROP_DRAWS, stream)
        cut = [resized_crop(image, size, row) for image, row in zip(originals, draws, strict=True)]
        return to_tensor(cut).to(self.device)

    def _random_crop(self, images: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        padding = self.preprocessing.padding
        draws = uniform(*self._seed_and_view(), ids.numpy(), 3)
        corners = torch.from_numpy((draws[:, :2] * (2 * padding + 1)).astype(np.int64)).to(self.device)
        mirrored = (draws[:, 2] < 0.5) & (self.preprocessing.augmentation == "crop_flip")
        return crop_and_flip(images, corners[:, 0], corners[:, 1], torch.from_numpy(mirrored).to(self.device), padding)


def _mix(images: torch.Tensor, partners: torch.Tensor, perturbation: torch.Tensor) -> torch.Tensor:
    # Three roundings of float32 and no fused multiply-add, so that a row does not depend on its place in the batch.
    share = perturbation.view(-1, 1, 1, 1)
    return images.float() * (1 - share) + partners.float() * share


def _read_labels(dataset: datasets.Dataset, column: str, num_classes: int) -> torch.Tensor:
    # A missing label is no integer: pandas makes NaN of it, which the range check then finds.
    labels = dataset.with_format(None).select_columns(column).to_pandas()[column].to_numpy()
    valid = (labels >= 0) & (labels < num_classes)
    if not valid.all():
        point = int(np.argmin(valid))
        raise ValueError(
            f"Point {point} has the label {labels[point]}; the {num_classes} classes are 0 to {num_classes - 1}. "
            "A test split without labels cannot be used: choose another split, or filter these points."
        )
    return torch.from_numpy(labels.astype(np.int64)).share_memory_()


def _as_ids(name: str, values: Indices, num_points: int, lowest: int = 0, length: int | None = None) -> torch.Tensor:
    ids = torch.as_tensor(values).cpu()
    if ids.numel() == 0:
        ids = ids.to(torch.int64)
    if ids.ndim != 1 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(f"{name} is {ids.dtype} of shape {tuple(ids.shape)}; give a list of integer ids.")
    _check_length(name, ids, length)
    wrong = (ids < lowest) | (ids >= num_points)
    if wrong.any():
        allowed = f"{lowest} to {num_points - 1}" + (" (-1: none)" if lowest == -1 else "")
        raise ValueError(f"{name} holds {int(ids[wrong][0])}; this data set's ids are {allowed}.")
    return ids.to(torch.int64)


def _as_shares(values: Numbers, length: int, name: str = "perturbation") -> torch.Tensor:
    shares = torch.as_tensor(values).cpu().to(torch.float32)
    _check_length(name, shares, length)
    wrong = ~((shares >= 0) & (shares <= 1))
    if wrong.any():
        raise ValueError(f"{name} holds {float(shares[wrong][0])}; give shares from 0 (the point) to 1 (its partner).")
    return shares


def _check_length(name: str, values: torch.Tensor, length: int | None) -> None:
    if length is not None and tuple(values.shape) != (length,):
        raise ValueError(
            f"{name} has the shape {tuple(values.shape)}; give one entry for each of the {length} points."
        )


def _refuse_duplicates(name: str, ids: torch.Tensor) -> None:
    unique, counts = ids.unique(return_counts=True)
    if len(unique) < len(ids):
        raise ValueError(f"{name} holds {int(unique[counts > 1][0])} more than once; give every id once.")
