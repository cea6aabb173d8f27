"""How images are prepared for a network: size, augmentation, mean and standard deviation."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import datasets
from PIL import Image
from torch import nn

from ..errors import unknown_name
from ..models.configuration import ImageConfig, image_config, network_name
from .augmentation import evaluation_view
from .decoding import ImageReader
from .survey import FoundImages

# What each does to an image in training; "mirrored" means half of the time.
AUGMENTATIONS = {
    "crop_flip": "cut at random after {padding} pixels of padding, mirrored half of the time",
    "crop": "cut at random after {padding} pixels of padding, never mirrored",
    "resized_crop_flip": "a random part of 8 to 100 %, mirrored half of the time",
    "resized_crop": "a random part of 8 to 100 %, never mirrored",
    "none": "as they are, never mirrored",
}
_RESIZED = ("resized_crop_flip", "resized_crop")
# Height and width from which a training is slow enough to say so.
_LARGE = 256
# The share of images of one size from which the others are resized to it.
_MOST_IMAGES = 0.9


@dataclass(frozen=True)
class Preprocessing:
    """How the images of a data set are prepared.

    Args:
        mean, std: Mean and standard deviation of each of the three channels, pixels in [0, 1].
        size: Height and width of the images, in pixels.
        augmentation: `"crop_flip"` crops the zero-padded image at random and mirrors it half of the time, `"crop"` never
            mirrors, `"none"` changes nothing; all three need images of `size` x `size`, or `fit`. `"resized_crop_flip"`
            takes images of any size: it resizes a random part to `size` (the center in evaluation) and mirrors half of
            them; `"resized_crop"` never mirrors.
        padding: Black pixels added on each side before a random crop.
        resize: Height and width of finished images, for a network of another input size; None keeps `size`.
        fit: Whether images of another size than `size` are resized and cut to it as in evaluation, or refused.
        crop_pct: In evaluation and for `fit`, `size` as a share of the resized image's shorter side (timm's `crop_pct`);
            None is 0.875 for resized crops and 1.0 else.
        interpolation, crop_mode: How evaluation and `fit` resize and cut, in timm's words.

    Raises:
        ValueError: For an unknown augmentation or a number out of its range.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    augmentation: str
    padding: int = 0
    resize: int | None = None
    fit: bool = False
    crop_pct: float | None = None
    interpolation: str = "bilinear"
    crop_mode: str = "center"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != 3:
                raise ValueError(f"{name} has {len(values)} values; give three, for red, green and blue.")
            object.__setattr__(self, name, values)
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}; each channel needs a number above 0.")
        if self.augmentation not in AUGMENTATIONS:
            raise unknown_name("augmentation", self.augmentation, tuple(AUGMENTATIONS))
        for name, value, least in (("size", self.size, 1), ("resize", self.resize, 1), ("padding", self.padding, 0)):
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; give a number of pixels, {least} or more.")
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct is {self.crop_pct}; give a share above 0 and up to 1.")

    @property
    def any_size(self) -> bool:
        """Whether the images may have any size, because each is resized."""
        return self.augmentation in _RESIZED

    @property
    def mirrors(self) -> bool:
        """Whether training mirrors half of the images."""
        return self.augmentation.endswith("_flip")

    @property
    def shown_share(self) -> float:
        """`crop_pct`, or the value that None means."""
        return self.crop_pct or (0.875 if self.any_size else 1.0)

    @property
    def evaluation_view(self) -> Callable[[Image.Image], Image.Image]:
        """What evaluation and `fit` do to an image of any size."""
        return evaluation_view(self.size, self.shown_share, self.interpolation, self.crop_mode, self.mean)

    @property
    def network_size(self) -> int:
        """Height and width that the network receives, in pixels."""
        return self.resize or self.size

    def for_network(
        self, size: int | None = None, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None
    ) -> "Preprocessing":
        """Prepare the same images, with the same augmentation, for a network of another input; None keeps what is."""
        changed = replace(self, mean=mean or self.mean, std=std or self.std)
        if size is None:
            return changed
        # Images of any size are cut and resized in one step; others are resized after the augmentation.
        if self.any_size:
            return replace(changed, size=size)
        return replace(changed, resize=None if size == self.size else size)

    def as_network_expects(self, network: nn.Module) -> "Preprocessing":
        """Prepare the same images, with the same augmentation, as the configuration of a timm network says."""
        images = _of_color(network)
        return self.for_network(images.input_size[-1], images.mean, images.std)

    def evaluation_of(self, network: nn.Module) -> "Preprocessing":
        """Prepare the same images for the evaluation of a timm network, as timm and transformers do by its configuration."""
        images = _of_color(network)
        same = self.for_network(images.input_size[-1], images.mean, images.std)
        if not same.any_size and images.crop_pct == 1 and images.interpolation == "bilinear":
            # Whole batches are resized at once, to the same pixels.
            return same
        still = replace(same, size=same.network_size, resize=None, augmentation="none", padding=0, fit=True)
        return replace(still, crop_pct=images.crop_pct, interpolation=images.interpolation, crop_mode=images.crop_mode)

    def with_augmentation(self, name: str) -> "Preprocessing":
        """Prepare the same images with another augmentation, and images of any size where they were taken before."""
        if name not in AUGMENTATIONS:
            raise unknown_name("augmentation", name, tuple(AUGMENTATIONS))
        changed = replace(self, augmentation=name, fit=self.fit or self.any_size)
        if changed.any_size:
            return replace(changed, size=self.network_size, resize=None, padding=0)
        return replace(changed, padding=self.padding or self.size // 8)

    def describe(self, training: bool = True, fits: bool = False) -> str:
        """Say in one clause how images are shown: size, augmentation, mean and standard deviation.

        With `training`, the augmentation; with `fits`, that images of other sizes are resized.
        """
        parts = [f"shown at {self.network_size} x {self.network_size}"]
        if self.fit and fits and not self.any_size:
            parts.append(f"others than {self.size} x {self.size} resized to it and cut to their center")
        if training:
            parts.append(AUGMENTATIONS[self.augmentation].format(padding=self.padding))
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        large = "; image_size makes large images smaller, and training faster" if self.network_size > _LARGE else ""
        return f"{', '.join(parts)}; mean {mean}, std {std}{large}"


# The preprocessing behind the published CIFAR-100 tables (RepDistiller, mdistiller).
CIFAR_PREPROCESSING = Preprocessing((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), 32, "crop_flip", padding=4)
IMAGENET_PREPROCESSING = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224, "resized_crop_flip")
# Mean and deviation of the training split of scikit-learn's digits. No flip: a mirrored digit is another digit.
DIGITS_PREPROCESSING = Preprocessing((0.3053,) * 3, (0.3760,) * 3, 8, "crop", padding=1)
BY_DATA = {"digits": DIGITS_PREPROCESSING, "cifar100": CIFAR_PREPROCESSING, "imagenet": IMAGENET_PREPROCESSING}


def guess_preprocessing(dataset: datasets.Dataset, image_column: str) -> Preprocessing:
    """Choose CIFAR's preprocessing, padded by an eighth, if most images are squares of one size; else ImageNet's.

    Where at least 90 % have one size, the others are resized to it. All sizes are read, or up to 100,000.
    """
    return preprocessing_of(ImageReader(dataset, image_column).survey())


def preprocessing_of(found: FoundImages) -> Preprocessing:
    """Choose a preprocessing as `guess_preprocessing` does."""
    (height, width), share = found.common_size
    if share < _MOST_IMAGES or height != width:
        return IMAGENET_PREPROCESSING
    return replace(CIFAR_PREPROCESSING, size=height, padding=height // 8, fit=True)


def _of_color(network: nn.Module) -> ImageConfig:
    """Return the images of a network that takes three channels; refuse any other."""
    images = image_config(network)
    check_channels(network_name(network), images.input_size[0])
    return images


def check_channels(name: str, channels: int) -> None:
    """Refuse a network that does not take RGB images."""
    if channels != 3:
        count = "1 channel" if channels == 1 else f"{channels} channels"
        raise ValueError(
            f"{name} takes images of {count}, and images are shown to it in RGB: make it with in_chans=3; a gray image has three "
            "equal channels."
        )
