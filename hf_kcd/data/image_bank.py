"""The images of a data set: decoded once into shared memory, or each time they are read."""

import copy
import logging

import numpy as np
import torch
from datasets.utils import tqdm
from PIL import Image

from ..condensation.selection import Selection
from .decoding import ImageReader, to_tensor
from .survey import FoundImages

logger = logging.getLogger(__name__)

_DECODE_BATCH = 512
_MOST_SIZES = 8
_BLEND_CHUNK = 4096
# 4095, white in 12 bits, is 16 of 255 in 16 bits.
_DARK, _FEW_IMAGES = 16, 64


class ImageBank:
    """Images by point id, kept on a device when all have one size and fit the budget in bytes, else decoded each time."""

    def __init__(self, reader: ImageReader, found: FoundImages, memory_budget: int, device: torch.device) -> None:
        _warn_of_darkness(reader, found)
        images = _decode_all(reader, found, memory_budget)
        if images is None and device.type != "cpu":
            raise ValueError(
                f"Images are kept on {device} only if all have one size and take at most {memory_budget} bytes. Leave device "
                "out and use workers, or raise memory_budget."
            )
        self.device = device
        # A reader holds the data set. Without it, a spawned worker receives handles of shared memory and no image.
        self._source: torch.Tensor | ImageReader = reader if images is None else images.to(device)
        self._blended = torch.empty(0, dtype=torch.int64)
        self._originals = torch.empty(0, dtype=torch.uint8)

    @property
    def in_memory(self) -> bool:
        """Whether the images were decoded once and are kept."""
        return isinstance(self._source, torch.Tensor)

    def copy(self, own_images: bool) -> "ImageBank":
        """Return a bank of the same images, which it shares unless it may change them."""
        other = copy.copy(self)
        if isinstance(self._source, torch.Tensor) and (own_images or len(self._blended)):
            other._source = self._source.clone()
            if self.device.type == "cpu":
                other._source.share_memory_()
        return other

    def read(self, ids: torch.Tensor) -> torch.Tensor:
        """Read images of one size, uint8 [B, 3, H, W]."""
        if isinstance(self._source, ImageReader):
            return to_tensor(self._source.read(ids.tolist()))
        return self._source.index_select(0, ids.to(self.device))

    def pictures(self, ids: torch.Tensor) -> list[Image.Image]:
        """Read images of any size."""
        if isinstance(self._source, ImageReader):
            return self._source.read(ids.tolist())
        return [Image.fromarray(pixels) for pixels in self.read(ids).permute(0, 2, 3, 1).cpu().numpy()]

    def blend(self, selection: Selection) -> None:
        """Mix partners into the kept images of points that all have one; see `KnowledgeDataset.blend`."""
        images = self._source
        if isinstance(images, ImageReader):
            raise RuntimeError("blend needs images in memory: raise memory_budget, or mix with select while loading.")
        unsaved = selection.points[~torch.isin(selection.points, self._blended)]
        self._originals = torch.cat([self._originals, self.read(unsaved).cpu()])
        self._blended = torch.cat([self._blended, unsaved])
        points, partner, perturbation = (values.to(self.device) for values in selection)
        # Points may be partners of each other, so all partners are read before any point is written.
        partner_images = self.read(partner)
        for chunk in torch.arange(len(points), device=self.device).split(_BLEND_CHUNK):
            mixed = mix(images[points[chunk]], partner_images[chunk], perturbation[chunk])
            images[points[chunk]] = mixed.to(torch.uint8)

    def restore(self) -> None:
        """Undo every `blend`."""
        if isinstance(self._source, torch.Tensor) and len(self._blended):
            self._source[self._blended.to(self.device)] = self._originals.to(self.device)
            self._blended, self._originals = self._blended[:0], self._originals[:0]

    def blended(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the ids of the blended points, ascending, and their current images."""
        ids = self._blended.sort().values
        return ids, self.read(ids).cpu() if len(ids) else self._originals


def mix(images: torch.Tensor, partners: torch.Tensor, perturbation: torch.Tensor) -> torch.Tensor:
    """Mix two batches of images: `(1 - perturbation) * images + perturbation * partners` in float32 (KCD, Eq. 14)."""
    # Three roundings of float32 and no fused multiply-add, so that a row does not depend on its place in the batch.
    share = perturbation.view(-1, 1, 1, 1)
    return images.float() * (1 - share) + partners.float() * share


def _warn_of_darkness(reader: ImageReader, found: FoundImages) -> None:
    """Warn of cameras of 10 or 12 bits, whose whitest value is nearly black where 65535 is white."""
    if not any(mode.startswith("I;16") for mode in found.modes):
        return
    some = reader.read(np.linspace(0, len(reader) - 1, min(len(reader), _FEW_IMAGES), dtype=int).tolist())
    brightest = max(int(np.asarray(image).max()) for image in some)
    if 0 < brightest <= _DARK:
        logger.warning(
            f"The 16-bit images are nearly black: {brightest} of 255 is the brightest value of {len(some):,} of them, since "
            "65535 is white. Scale 12 bits by 16 before you save them as uint16."
        )


def _decode_all(reader: ImageReader, found: FoundImages, memory_budget: int) -> torch.Tensor | None:
    """All images in shared memory, uint8 [N, 3, H, W]; None when they differ in size or exceed the budget."""
    # One image of each size, so that one that the reader refuses is found before the others are decoded.
    sizes = {picture.size for picture in reader.read(list(found.first.values())[:_MOST_SIZES])}
    width, height = next(iter(sizes))
    num_bytes = len(reader) * 3 * height * width
    if len(sizes) > 1 or num_bytes > memory_budget:
        return None
    try:
        images = torch.empty(len(reader), 3, height, width, dtype=torch.uint8).share_memory_()
    except RuntimeError as error:
        raise RuntimeError(
            f"The images need {num_bytes / 2**20:.0f} MiB of shared memory, more than there is ({error}). "
            "Give the container more (docker run --shm-size), or decode in workers (memory_budget=0)."
        ) from error
    for start in tqdm(range(0, len(reader), _DECODE_BATCH), desc="Decoding images"):
        pictures = reader.read(range(start, min(start + _DECODE_BATCH, len(reader))))
        if any(picture.size != (width, height) for picture in pictures):
            return None
        images[start : start + len(pictures)] = to_tensor(pictures)
    return images
