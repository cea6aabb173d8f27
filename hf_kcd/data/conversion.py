"""The one conversion of images of every mode to 8-bit RGB; `docs/data.md` has it as a table."""

import numpy as np
from PIL import Image

_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
# A picture that is lighter than this everywhere on white cannot be seen there.
_NEARLY_WHITE = 250


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit RGB: black stays 0 and white becomes 255 in every mode, and transparent becomes white.

    Raises:
        ValueError: When the range of the values is not known, or nothing would be left to see; the message names the mode.
    """
    if image.mode in (*_SIXTEEN_BITS, "I", "F"):
        return _eight_bits(image).convert("RGB")
    if image.has_transparency_data:
        return _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale the gray values of a wide mode to 0 to 255."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    about = f"its mode {image.mode} holds values from {low:.6g} to {high:.6g}"
    # Older versions of Pillow read a 16-bit PNG as mode I.
    if image.mode in _SIXTEEN_BITS or (image.mode == "I" and image.format == "PNG"):
        if 0 < high <= 255:
            raise ValueError(f"{about}, nearly black where 65535 is white: save 8-bit values as uint8")
        return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode == "F" and low >= 0 and high <= 1:
        return Image.fromarray(np.rint(values * np.float32(255)).astype(np.uint8))
    # As a comparison, this also refuses NaN.
    if not (low >= 0 and high <= 255):
        known = "0 to 1 or 0 to 255" if image.mode == "F" else "0 to 255"
        raise ValueError(f"{about}, and only {known} is known there: scale it, and save it as uint8 or uint16")
    return image


def _on_white(image: Image.Image) -> Image.Image:
    # Pillow converts premultiplied gray only to gray with alpha.
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    alpha = np.asarray(rgba.getchannel("A"))
    if alpha.min() < alpha.max() and np.asarray(flat).min() >= _NEARLY_WHITE:
        raise ValueError(
            f"its mode {image.mode} has white on a transparent background, and images are laid on white: lay it on another color"
        )
    return flat
