"""How images are prepared for a network: size, augmentation, mean and standard deviation."""

from dataclasses import dataclass, replace

import datasets
from torch import nn

from ..errors import unknown_name
from ..models.configuration import image_config
from .decoding import ImageReader

AUGMENTATIONS = ("crop_flip", "crop", "resized_crop_flip", "none")


@dataclass(frozen=True)
class Preprocessing:
    """How the images of a data set are prepared.

    Args:
        mean, std: Mean and standard deviation of each of the three channels, pixels in [0, 1].
        size: Height and width of the images, in pixels.
        augmentation: `"crop_flip"` crops the zero-padded image at random and mirrors it half of the time, `"crop"` never
            mirrors, `"none"` changes nothing; all three need images of `size` x `size`. `"resized_crop_flip"` takes
            images of any size: it resizes a random part to `size` (the center in evaluation) and mirrors half of them.
        padding: Black pixels added on each side before a random crop.
        resize: Height and width of finished images, for a network of another input size; None keeps `size`.

    Raises:
        ValueError: For an unknown augmentation or a number out of its range.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    augmentation: str
    padding: int = 0
    resize: int | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != 3:
                raise ValueError(f"{name} has {len(values)} values; give three, for red, green and blue.")
            object.__setattr__(self, name, values)
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}; each channel needs a number above 0.")
        if self.augmentation not in AUGMENTATIONS:
            raise unknown_name("augmentation", self.augmentation, AUGMENTATIONS)
        for name, value, least in (("size", self.size, 1), ("resize", self.resize, 1), ("padding", self.padding, 0)):
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; give a number of pixels, {least} or more.")

    @property
    def any_size(self) -> bool:
        """Whether the images may have any size, because each is resized."""
        return self.augmentation == "resized_crop_flip"

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
        """Prepare the same images as the configuration of a timm network says."""
        images = image_config(network)
        return self.for_network(images.input_size[-1], images.mean, images.std)


# The preprocessing behind the published CIFAR-100 tables (RepDistiller, mdistiller).
CIFAR_PREPROCESSING = Preprocessing((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), 32, "crop_flip", padding=4)
IMAGENET_PREPROCESSING = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224, "resized_crop_flip")
# Mean and deviation of the training split of scikit-learn's digits. No flip: a mirrored digit is another digit.
DIGITS_PREPROCESSING = Preprocessing((0.3053,) * 3, (0.3760,) * 3, 8, "crop", padding=1)
BY_DATA = {"digits": DIGITS_PREPROCESSING, "cifar100": CIFAR_PREPROCESSING, "imagenet": IMAGENET_PREPROCESSING}


def guess_preprocessing(dataset: datasets.Dataset, image_column: str) -> Preprocessing:
    """Choose CIFAR's preprocessing, padded by an eighth, if up to 64 sampled images are squares of one size; else ImageNet's."""
    sizes = ImageReader(dataset, image_column).sample_sizes(64)
    height, width = min(sizes, default=(0, 1))
    if len(sizes) > 1 or height != width:
        return IMAGENET_PREPROCESSING
    return replace(CIFAR_PREPROCESSING, size=height, padding=height // 8)
