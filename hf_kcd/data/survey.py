"""What images a data set holds, read from their headers: modes and sizes."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from PIL import ExifTags, Image

Size = tuple[int, int]

# Whether an image has to be turned is read only where its header is known to say so: Pillow would decode a whole PNG.
_MAY_TURN = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
_TURNED_BY_90 = (5, 6, 7, 8)
_MOST_LISTED = 3


@dataclass
class FoundImages:
    """The images of a data set.

    Args:
        num_images: Images of the data set.
        modes: Pillow's mode of each image that was looked at, counted.
        sizes: Height and width of each, upright, counted.
        first: The point that has a size first.
    """

    num_images: int
    modes: Counter[str] = field(default_factory=Counter)
    sizes: Counter[Size] = field(default_factory=Counter)
    first: dict[Size, int] = field(default_factory=dict)

    def add(self, point: int, mode: str, size: Size) -> None:
        """Count an image."""
        self.modes[mode] += 1
        self.sizes[size] += 1
        self.first.setdefault(size, point)

    @property
    def common_size(self) -> tuple[Size, float]:
        """The most frequent size, and the share of the images that have it."""
        size, count = self.sizes.most_common(1)[0]
        return size, count / self.sizes.total()

    def __str__(self) -> str:
        """Say it in one clause: "2,062 images in RGB (2,059 of 100 x 100, 3 of 3024 x 3024)"."""
        looked = self.sizes.total()
        sampled = "" if looked == self.num_images else f"; {looked:,} of them were looked at"
        return f"{self.num_images:,} images in {_listed(self.modes)} ({_sizes(self.sizes)}{sampled})"


def read_header(image: Image.Image) -> tuple[str, Size]:
    """Return mode, and upright height and width, of an image that is open but not decoded."""
    size = (image.height, image.width)
    if (image.format == "TIFF" or any(name in image.info for name in _MAY_TURN)) and image.getexif().get(
        ExifTags.Base.Orientation
    ) in _TURNED_BY_90:
        size = size[::-1]
    alpha = " with transparency" if image.mode in ("P", "L", "RGB", "1") and "transparency" in image.info else ""
    return f"{image.mode}{alpha}", size


def _listed(counts: Counter[str]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    return _join(f"{mode} ({count:,})" for mode, count in counts.most_common())


def _sizes(counts: Counter[Size]) -> str:
    if len(counts) == 1:
        return "all {} x {}".format(*next(iter(counts)))
    listed = [f"{count:,} of {height} x {width}" for (height, width), count in counts.most_common(_MOST_LISTED)]
    more = len(counts) - len(listed)
    return _join(listed) + (f" and {more:,} more sizes" if more else "")


def _join(parts: Iterable[str]) -> str:
    return ", ".join(parts)
