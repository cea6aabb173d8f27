"""What the configuration of a network says: its name, its classes, and the images that it was trained on."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import timm.data
from torch import nn


@dataclass(frozen=True)
class ImageConfig:
    """The images that a network was trained on.

    Args:
        input_size: Channels, height and width.
        mean, std: Their normalization, per channel of an image in [0, 1].
        interpolation: How they were resized, in timm's words ("bicubic", "bilinear").
        crop_pct, crop_mode: The share of a resized image that evaluation shows, and how it is cut.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float = 0.875
    crop_mode: str = "center"


def image_config(model: nn.Module) -> ImageConfig:
    """Return the images that a timm network was trained on."""
    config = timm.data.resolve_model_data_config(model)
    # The network's own size and channels go before those of its published weights.
    channels = getattr(model, "in_chans", config["input_size"][0])
    size = getattr(getattr(model, "patch_embed", None), "img_size", None) or config["input_size"][1:]
    mean, std = _per_channel(config["mean"], channels), _per_channel(config["std"], channels)
    return ImageConfig(
        (channels, *size), mean, std, *(config[name] for name in ("interpolation", "crop_pct", "crop_mode"))
    )


def set_images(config: dict[str, Any], images: Mapping[str, Any]) -> None:
    """Write into a timm configuration how images are prepared, and drop what it says of other images."""
    config.update(images)
    # timm's own evaluation may prefer these.
    for key in ("input_size", "crop_pct"):
        if key in images:
            config.pop(f"test_{key}", None)


@contextmanager
def described_as(model: nn.Module, images: Mapping[str, Any]) -> Iterator[None]:
    """Let a network's configuration describe other images meanwhile."""
    config, before = model.pretrained_cfg, dict(model.pretrained_cfg)
    set_images(config, images)
    try:
        yield
    finally:
        config.clear()
        config.update(before)


def network_name(model: nn.Module) -> str:
    """Return the name of a network in timm; raise a ValueError with its class when it is not a timm network."""
    config = getattr(model, "pretrained_cfg", None)
    if not config or not config.get("architecture"):
        fault = f"{type(model).__name__} is not a timm network: it has no pretrained_cfg."
        raise ValueError(f"{fault} Register it with timm.models.register_model, and make it with hf_kcd.load_model.")
    return config["architecture"]


def label_names(model: nn.Module) -> list[str] | None:
    """Return the names of a network's classes in the order of its logits, from timm's or transformers' configuration.

    None where it has none, or as many as it had classes before its classifier was replaced.
    """
    names = (getattr(model, "pretrained_cfg", None) or {}).get("label_names")
    names = names or getattr(getattr(model, "config", None), "id2label", None) or ()
    if isinstance(names, Mapping):
        # JSON turns the numbers into words.
        numbers = sorted(names, key=int) if all(str(key).isdecimal() for key in names) else ()
        names = [names[key] for key in numbers]
    whole = names and len(names) == getattr(model, "num_classes", len(names))
    return [str(name) for name in names] if whole else None


def _per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    # timm's rule for another number of channels than the configuration's: their mean for each.
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels
