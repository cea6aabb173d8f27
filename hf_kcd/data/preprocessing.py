"""What is done to an image before a network sees it: its size, its augmentation, its mean and standard deviation."""

from dataclasses import dataclass, replace

import datasets

from ..errors import unknown_name
from .decoding import ImageReader

AUGMENTATIONS = ("crop_flip", "crop", "resized_crop_flip", "none")


@dataclass(frozen=True)
class Preprocessing:
    """How the images of a data set are prepared.

    Args:
        mean: Mean of each of the three channels, pixels in [0, 1].
        std: Standard deviation of each of the three channels, pixels in [0, 1].
        size: Height and width of the image, in pixels.
        augmentation: `"crop_flip"` (random crop from the zero-padded image, mirrored half of the time), `"crop"`
            (never mirrored), `"none"`, all three for images that are `size` x `size` already; `"resized_crop_flip"`
            (a random part of the image resized to `size`, mirrored half of the time; evaluated on the centre) for
            images of any size.
        padding: Black pixels added on each side before a random crop.
        resize: Height and width that the finished image is enlarged or reduced to, for a network that knows images of
            another size than the data's; None leaves it at `size`.

    Raises:
        ValueError: For an unknown augmentation or a number out of its range.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
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
        for name, value in (("size", self.size), ("resize", self.resize)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; give the height and width in pixels, 1 or more.")
        if self.padding < 0:
            raise ValueError(f"padding is {self.padding}; give a number of pixels, 0 or more.")

    @property
    def any_size(self) -> bool:
        """Whether the images may have any size, because each is resized."""
        return self.augmentation == "resized_crop_flip"

    @property
    def network_size(self) -> int:
        """Height and width that the network sees, in pixels."""
        return self.resize or self.size

    def for_network(
        self,
        size: int | None = None,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
    ) -> "Preprocessing":
        """Prepare the same images for a network that was trained on others.

        Args:
            size: Height and width that it knows, in pixels; None keeps the present ones.
            mean, std: What its images were normalised with; None keeps the present ones.

        Returns:
            The preprocessing, with the same augmentation.
        """
        preprocessing = replace(self, mean=mean or self.mean, std=std or self.std)
        if size is None:
            return preprocessing
        # Images of any size are cut and resized in one step, others are finished at their own size first.
        return (
            replace(preprocessing, size=size)
            if self.any_size
            else replace(preprocessing, resize=None if size == self.size else size)
        )


# The preprocessing behind the published CIFAR-100 tables (RepDistiller, mdistiller).
CIFAR_PREPROCESSING = Preprocessing((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), 32, "crop_flip", padding=4)
IMAGENET_PREPROCESSING = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224, "resized_crop_flip")
# Mean and deviation of the training split of scikit-learn's digits. A mirrored digit is another digit: no flip.
DIGITS_PREPROCESSING = Preprocessing((0.3053,) * 3, (0.3760,) * 3, 8, "crop", padding=1)


def guess_preprocessing(dataset: datasets.Dataset, image_column: str) -> Preprocessing:
    """Choose a preprocessing from the sizes of up to 64 evenly spaced images.

    Args:
        dataset: A data set with an image column.
        image_column: The name of that column.

    Returns:
        The CIFAR preprocessing at their size, padded by an eighth of it, when all are squares of one size; the ImageNet
        preprocessing otherwise.
    """
    sizes = ImageReader(dataset, image_column).sample_sizes(64)
    if len(sizes) == 1:
        height, width = sizes.pop()
        if height == width:
            return replace(CIFAR_PREPROCESSING, size=height, padding=height // 8)
    return IMAGENET_PREPROCESSING
