"""Weights from elsewhere: reading a checkpoint file without running it, and giving its tensors our names."""

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from timm.models import clean_state_dict
from torch import Tensor, nn

from ..files import load_tensors
from ..names import unknown_name

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""What the weights in a folder may be called, the first that is there being read."""

CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt")

_WRAPPERS = ("model", "state_dict", "model_state_dict")
_MOST_LISTED = 8


def _rename_resnet(key: str) -> str:
    return key


def _rename_wrn(key: str) -> str:
    return re.sub(r"^block(\d)\.layer\.", r"layer\1.", key).replace(".convShortcut.", ".shortcut.")


_REFERENCE_LAYOUTS: dict[str, Callable[[str], str]] = {"cifar_resnet": _rename_resnet, "cifar_wrn": _rename_wrn}


def convert_reference_state_dict(model_name: str, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of a RepDistiller checkpoint (mdistiller's and SSKD's are alike) the names of our network.

    Args:
        model_name: One of our networks ("cifar_wrn_40_2").
        state_dict: The checkpoint's tensors by name; names that are ours already stay.

    Returns:
        The same tensors under our names.

    Raises:
        ValueError: For a network whose reference layout is not known.
    """
    for family, rename in _REFERENCE_LAYOUTS.items():
        if model_name.startswith(family):
            return {rename(key): tensor for key, tensor in state_dict.items()}
    raise unknown_name("network with a reference layout", model_name, [f"{family}*" for family in _REFERENCE_LAYOUTS])


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the weights of a network out of a file or a folder, unwrapped, without running any code in it.

    Args:
        path: A `.safetensors` file, a file of `torch.save`, or a folder with `model.safetensors`.

    Returns:
        The tensors by name, on the CPU, without the prefixes of DDP and `torch.compile`.

    Raises:
        FileNotFoundError: When it does not exist.
        ValueError: When it is cut short, would have to be unpickled, or holds no state dict.
    """
    if path.is_dir():
        path = _weight_file(path)
    if not path.is_file():
        raise FileNotFoundError(f"The checkpoint {path} does not exist.")
    content = load_tensors(path)[0] if path.suffix == ".safetensors" else _read_torch_file(path)
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(
            f"{path} holds no state dict, neither at its top nor under {', '.join(map(repr, _WRAPPERS))}. "
            "Save the weights with torch.save(model.state_dict(), path)."
        )
    return clean_state_dict(dict(content))


def fit_state_dict(model: nn.Module, model_name: str, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name a checkpoint's tensors as the network does, and complete the counters that old checkpoints lack.

    Args:
        model: The network.
        model_name: Its name in timm.
        state_dict: The checkpoint's tensors by name.

    Returns:
        What can be given to `load_fitted`; a checkpoint that fits no known way is returned as it is.
    """
    own = model.state_dict()
    if not state_dict.keys() <= own.keys() and model_name.startswith(tuple(_REFERENCE_LAYOUTS)):
        state_dict = convert_reference_state_dict(model_name, state_dict)
    counters = {key: own[key] for key in own.keys() - state_dict.keys() if key.endswith(".num_batches_tracked")}
    return {**counters, **state_dict}


def load_fitted(model: nn.Module, model_name: str, state_dict: dict[str, Tensor], source: object) -> None:
    """Load a state dict that must fit whole.

    Args:
        model: The network.
        model_name: Its name in timm, for the message.
        state_dict: What `fit_state_dict` returned.
        source: Where it was read, for the message.

    Raises:
        ValueError: Listing what is missing, what is not in the network, and what has another shape.
    """
    own = model.state_dict()
    complaints = {
        "missing": [key for key in own if key not in state_dict],
        "not in the network": [key for key in state_dict if key not in own],
        "of another shape": [
            f"{key} {list(state_dict[key].shape)} instead of {list(tensor.shape)}"
            for key, tensor in own.items()
            if key in state_dict and state_dict[key].shape != tensor.shape
        ],
    }
    lines = [f"  {len(keys)} {what}: {_listed(keys)}" for what, keys in complaints.items() if keys]
    if lines:
        raise ValueError(
            "\n".join([f"The weights in {source} do not fit {model_name}:", *lines])
            + "\nName the network that they were trained with."
        )
    model.load_state_dict(state_dict)


def _listed(keys: list[str]) -> str:
    more = len(keys) - _MOST_LISTED
    return ", ".join(keys[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def _weight_file(folder: Path) -> Path:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"The folder {folder} holds no weights: none of {', '.join(WEIGHT_FILES)} is there.")


def _read_torch_file(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    # Cut at different places, a file fails in every one of these ways.
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, LookupError, ValueError) as error:
        refused = re.search(r"Unsupported (?:global|class)\S*:? (?:GLOBAL )?(\S+)", str(error))
        if refused:
            raise ValueError(
                f"{path} holds more than tensors ({refused[1]}): reading it may run code out of it, which load_model "
                "never does. Where you trust it, open it once with torch.load(path, weights_only=False) and save the "
                "weights alone with torch.save(model.state_dict(), path) or as safetensors."
            ) from error
        raise ValueError(
            f"{path} is not a whole torch.save file. It was cut short or is of another kind: fetch it again."
        ) from error
