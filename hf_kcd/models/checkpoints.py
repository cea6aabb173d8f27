"""Foreign weights: reading a checkpoint file without running its code, and finding a network's tensors in it."""

import pickle
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from ..artifacts.files import load_tensors
from .configuration import network_name
from .reference import describe_layout, has_reference_layout, reference_names

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of the weights in a folder; the first one found is read."""
CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt")
_FAULTS = ("missing", "not in the network", "of another shape", "of another type")
_MOST_LISTED = 8


@dataclass(frozen=True)
class Checkpoint:
    """A file's tensors by their place ("model.fc.weight"), and the epochs and accuracies that it states at its top."""

    path: Path
    tensors: dict[str, Tensor]
    numbers: dict[str, float]


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a `.safetensors` file, a `torch.save` file, or a folder with weights, without running any code in it."""
    path = Path(path)
    if path.is_dir():
        path = _weight_file(path)
    if not path.is_file():
        raise FileNotFoundError(f"The checkpoint {path} does not exist.")
    content = load_tensors(path)[0] if path.suffix == ".safetensors" else _read_torch_file(path)
    tensors = dict(_named_tensors(content))
    if not tensors:
        raise ValueError(f"{path} holds no state dict. Save the weights with torch.save(model.state_dict(), path).")
    return Checkpoint(path, tensors, dict(_notes(content)))


def fit_checkpoint(checkpoint: Checkpoint, model: nn.Module, part: str | None = None) -> dict[str, Tensor]:
    """Find the one state dict in a checkpoint, or a part of it, that fits a network up to its number of classes.

    It has the network's names and dtypes, and the counters that checkpoints of old PyTorch versions lack.
    """
    network = _Network.of(model)
    fits = network.fitting_parts(_parts(checkpoint, part))
    if len(fits) > 1:
        places = f"{len(fits)} networks that fit {network.name}: {_listed([fit.part for fit in fits])}"
        raise ValueError(f"{checkpoint.path} holds {places}. Extract one of them with hf-kcd convert --part.")
    if not fits:
        raise ValueError(_complaint(checkpoint, network, part))
    state_dict = {}
    for key, own in network.tensors.items():
        tensor = fits[0].tensors.get(key, own).to(own.dtype)
        if tensor.is_floating_point() and not tensor.isfinite().all():
            bad = f"{int((~tensor.isfinite()).sum())} of {tensor.numel()} values NaN or beyond {tensor.dtype}"
            raise ValueError(f"{key} in {checkpoint.path} has {bad}: the training diverged. Take an earlier file.")
        state_dict[key] = tensor
    return state_dict


def find_networks_in(checkpoint: Checkpoint, part: str | None = None) -> list[tuple[str, str]]:
    """Find out which cifar_* networks a checkpoint, or a part of it, holds: names, each with its place ("" is the top)."""
    parts, networks = _parts(checkpoint, part), map(_network_without_memory, timm.list_models("cifar_*"))
    return [(network.name, fit.part) for network in networks for fit in network.fitting_parts(parts)]


def describe_networks_in(checkpoint: Checkpoint, part: str | None = None) -> str:
    """Say in a sentence which cifar_* networks a checkpoint holds, or its layout when it holds none."""
    found = find_networks_in(checkpoint, part)
    if found:
        return f"It fits {' or '.join(f'{name} (under {place!r})' if place else name for name, place in found)}."
    layout = next(filter(None, map(describe_layout, _parts(checkpoint, part).values())), None)
    return f"It fits no cifar_* network completely{f'; its layout is {layout}' if layout else ''}."


@dataclass(frozen=True)
class _Fit:
    """How the tensors at one place of a checkpoint match a network; complaints by kind, in the file's own names."""

    part: str
    tensors: dict[str, Tensor]
    complaints: dict[str, list[str]]


@dataclass(frozen=True)
class _Network:
    """What a checkpoint is compared with."""

    name: str
    tensors: dict[str, Tensor]
    classifiers: tuple[str, ...]

    @classmethod
    def of(cls, model: nn.Module) -> "_Network":
        return cls(network_name(model), dict(model.state_dict()), classifiers_of(model))

    def fitting_parts(self, parts: Mapping[str, dict[str, Tensor]]) -> list[_Fit]:
        # Counting is quick, and another number of tensors cannot fit.
        size = _count_weights(self.tensors)
        fits = [self.compare(part, theirs) for part, theirs in parts.items() if _count_weights(theirs) == size]
        return [fit for fit in fits if not fit.complaints]

    def compare(self, part: str, theirs: dict[str, Tensor]) -> _Fit:
        names = reference_names(self.name, theirs) if has_reference_layout(self.name) else {key: key for key in theirs}
        tensors = {names[key]: tensor for key, tensor in theirs.items()}
        heads = {tensors[f"{name}.weight"].shape[:1] for name in self.classifiers if f"{name}.weight" in tensors}
        faults: dict[str, list[str]] = defaultdict(list)
        faults["missing"] = [key for key in self.tensors if key not in tensors and not _is_counter(key)]
        for key, tensor in theirs.items():
            own = self.tensors.get(names[key])
            if own is None:
                faults["not in the network"].append(key)
                continue
            shape = list(own.shape)
            # The checkpoint sets the number of classes, the same in every tensor of the classifier.
            if len(heads) == 1 and names[key].rpartition(".")[0] in self.classifiers:
                shape[:1] = next(iter(heads))
            if list(tensor.shape) != shape:
                faults["of another shape"].append(f"{key} {list(tensor.shape)} instead of {shape}")
            elif own.is_floating_point() and not tensor.is_floating_point():
                faults["of another type"].append(f"{key} {tensor.dtype}")
        return _Fit(part, tensors, {kind: faults[kind] for kind in _FAULTS if faults[kind]})


@cache
def _network_without_memory(name: str) -> _Network:
    with torch.device("meta"):
        return _Network.of(timm.create_model(name))


def classifiers_of(model: nn.Module) -> tuple[str, ...]:
    """Name the layers of a timm network with one output per class."""
    names = model.pretrained_cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _complaint(checkpoint: Checkpoint, network: _Network, part: str | None) -> str:
    # The place that has most in common with the network is the one that was meant.
    fits = [network.compare(place, tensors) for place, tensors in _parts(checkpoint, part).items()]
    shared = network.tensors.keys()
    nearest = max(fits, key=lambda fit: (len(fit.tensors.keys() & shared), len(fit.tensors), len(fit.part)))
    where = f" under {nearest.part!r}" if nearest.part else ""
    faults = "".join(f"  {len(keys)} {kind}: {_listed(keys)}.\n" for kind, keys in nearest.complaints.items())
    advice = f"{describe_networks_in(checkpoint, part)} Name the network that they were trained with."
    return f"The weights{where} in {checkpoint.path} do not fit {network.name}:\n{faults}{advice}"


def _parts(checkpoint: Checkpoint, part: str | None) -> dict[str, dict[str, Tensor]]:
    """Cut a checkpoint at every level: for each place, the tensors below it by the rest of their names."""
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in checkpoint.tensors.items():
        # torch.compile puts its prefix before whatever was compiled, down to a single block.
        words = name.replace("_orig_mod.", "").split(".")
        for cut in range(len(words)):
            parts[".".join(words[:cut])][".".join(words[cut:])] = tensor
    if part is None:
        return dict(parts)
    # "student" also finds "model.module.student.module".
    chosen = {place: tensors for place, tensors in parts.items() if f".{part}." in f".{place}."}
    if not chosen:
        raise ValueError(f"{checkpoint.path} has no part {part!r}. {describe_networks_in(checkpoint)}")
    return chosen


def _count_weights(names: Iterable[str]) -> int:
    return sum(not _is_counter(name) for name in names)


def _is_counter(name: str) -> bool:
    # A normalization's batch counter; PyTorch before 0.4.1 kept none.
    return name.endswith(".num_batches_tracked")


def _named_tensors(content: object, place: str = "") -> Iterator[tuple[str, Tensor]]:
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, Tensor) and isinstance(key, str):
            yield place + key, value
        elif isinstance(key, str):
            yield from _named_tensors(value, f"{place}{key}.")


def _notes(content: object) -> Iterator[tuple[str, float]]:
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(key, str) and re.search("epoch|acc", key) and isinstance(value, int | float):
            yield key, value


def _listed(keys: list[str]) -> str:
    more = len(keys) - _MOST_LISTED
    return ", ".join(keys[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def _weight_file(folder: Path) -> Path:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"The folder {folder} holds no weights: it needs one of {', '.join(WEIGHT_FILES)}.")


def _read_torch_file(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    # A truncated file fails in any of these ways, depending on where it was cut.
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, LookupError, ValueError) as error:
        refused = re.search(r"nsupported (?i:global|class)\S*:?(?: GLOBAL)? (\S+)|TorchScript", str(error))
        if refused is None:
            said = f"{path} is not a complete torch.save file: it was cut short or is of another kind. Fetch it again."
            raise ValueError(said) from error
        reason = f"{path} holds more than tensors ({refused[1] or refused[0]}), and reading it may run its code."
        if "is blocked" in str(error):
            # Trained weights never need it.
            raise ValueError(f"{reason} This file was made to do that: do not open it by other means.") from error
        raise ValueError(
            f"{reason} hf_kcd never does. Take a file without it (RepDistiller's ckpt_epoch_240.pth or *_best.pth instead "
            "of *_last.pth). Or, where you trust it, open it once with torch.load(path, weights_only=False) and save only "
            "the weights with torch.save(model.state_dict(), path)."
        ) from error
