"""The folder format that timm, transformers and `load_model` read, and whether it gives a network again."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.models._hub import save_config_for_hf
from torch import Tensor, nn

from ..artifacts.files import read_json, save_tensors, write_json
from ..errors import unknown_name
from .checkpoints import WEIGHT_FILES
from .configuration import network_name, set_images
from .loading import make_from_folder, without_memory

_DATA_KEYS = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")


def save_model(
    model: nn.Module,
    folder: str | Path,
    label_names: Sequence[str] | None = None,
    data_config: dict[str, Any] | None = None,
) -> None:
    """Write a network as `model.safetensors` and `config.json`, for `load_model`, timm and transformers.

    Each file is whole or absent, and the configuration is written last; other files of the folder stay.

    Args:
        model: A timm network.
        folder: Where to write; created when missing.
        label_names: Names of the classes, in the order of the logits.
        data_config: How its images were prepared, in timm's terms: any of `input_size` (C, H, W), `mean`, `std`,
            `interpolation`, `crop_pct`, `crop_mode`; the rest stays as the network has it.

    Raises:
        ValueError: When it is not a timm network, the number of names is wrong, or `data_config` has an unknown key.
        OSError: When the folder cannot be written.
    """
    folder = Path(folder)
    if label_names is not None and len(label_names) != model.num_classes:
        raise ValueError(f"{len(label_names)} label names were given for {model.num_classes} classes: give one each.")
    config = _describe(model, label_names, data_config)
    save_tensors(folder / WEIGHT_FILES[0], model.state_dict(), metadata={"format": "pt"})
    write_json(folder / "config.json", config)


def rebuild(model: nn.Module) -> nn.Module:
    """Make a network as its saved description says, with the same tensors, in evaluation mode.

    Raises:
        ValueError: When the description makes another network, or none: how they differ, and what to do.
    """
    if hasattr(model, "_orig_mod"):
        raise ValueError("The network is compiled: pass the network itself, and torch_compile=True for a training.")
    try:
        with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]), torch.no_grad():
            write_json(Path(folder) / "config.json", _describe(model))
            state = model.state_dict()
            rebuilt = without_memory(lambda: make_from_folder(Path(folder)), lambda network: network)
            difference = _difference(state, rebuilt.state_dict())
            if not difference:
                # What a network computes when it is made, and does not save, needs memory too.
                if any(buffer.is_meta for name, buffer in rebuilt.named_buffers() if name not in state):
                    rebuilt = make_from_folder(Path(folder))
                rebuilt.load_state_dict(state, assign=True)
                return rebuilt.eval().to(next(model.parameters()))
    # A network that was changed may fail in timm with any of these.
    except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        difference = " ".join(str(error).split())[:300]
    raise not_rebuilt(model, difference)


def not_rebuilt(model: nn.Module, difference: str) -> ValueError:
    """Build the error for a network whose description makes another one, for the caller to raise."""
    return ValueError(
        f"Nobody could load this {network_name(model)} once it is saved, because its name and arguments make another "
        f"network: {difference}. Change a network through the arguments of timm.create_model or reset_classifier, or "
        "register the changed one in timm (timm.models.register_model)."
    )


def _difference(tensors: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> str:
    """Say how a network's tensors differ from those that its description gives; empty when they agree."""
    for name in sorted(tensors.keys() | others.keys()):
        if name not in others:
            return f"it has no {name}"
        if name not in tensors:
            return f"it has {name}, which is missing here"
        if tensors[name].shape != others[name].shape:
            return f"its {name} is {list(others[name].shape)} instead of {list(tensors[name].shape)}"
    return ""


def _describe(
    model: nn.Module, label_names: Sequence[str] | None = None, data_config: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Describe a network as `config.json` does."""
    network_name(model)
    for key in data_config or {}:
        if key not in _DATA_KEYS:
            raise unknown_name("key of data_config", key, _DATA_KEYS)
    with tempfile.TemporaryDirectory() as scratch:
        config_path = Path(scratch) / "config.json"
        save_config_for_hf(model, config_path, model_config={"label_names": list(label_names or [])})
        config = read_json(config_path)
    set_images(config["pretrained_cfg"], data_config or {})
    if label_names:
        # They are at the root; a network that came with names has them here too.
        config["pretrained_cfg"].pop("label_names", None)
    # transformers passes the number of classes itself, from the root; passing it twice would be an error.
    config.get("model_args", {}).pop("num_classes", None)
    return config
