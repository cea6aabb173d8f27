"""Weights from elsewhere: reading a checkpoint file without running it, and finding a network's tensors in it."""

import pickle
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from ..artifacts.files import load_tensors
from .reference import describe_layout, has_reference_layout, reference_names

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""What the weights in a folder may be called, the first that is there being read."""

CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt")

_MOST_LISTED = 8


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Args:
        path: The file.
        tensors: All its tensors, on the CPU, by their place in it: "model.fc.weight" is "fc.weight" under "model".
        numbers: What it says of itself: the plain numbers at its top that are an epoch or an accuracy.
    """

    path: Path
    tensors: dict[str, Tensor]
    numbers: dict[str, float]


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a file or a folder with weights without running any code in it.

    Args:
        path: A `.safetensors` file, a file of `torch.save`, or a folder with `model.safetensors`.

    Raises:
        FileNotFoundError: When it does not exist.
        ValueError: When it is cut short, would have to be unpickled, or holds no tensors by name.
    """
    path = Path(path)
    if path.is_dir():
        path = _weight_file(path)
    if not path.is_file():
        raise FileNotFoundError(f"The checkpoint {path} does not exist.")
    content = load_tensors(path)[0] if path.suffix == ".safetensors" else _read_torch_file(path)
    tensors = dict(_named_tensors(content))
    if not tensors:
        raise ValueError(
            f"{path} holds no state dict, neither at its top nor deeper. Save the weights with "
            "torch.save(model.state_dict(), path)."
        )
    return Checkpoint(path, tensors, dict(_notes(content)))


def fit_checkpoint(
    checkpoint: Checkpoint, model: nn.Module, model_name: str, part: str | None = None
) -> dict[str, Tensor]:
    """Find the one state dict in a checkpoint that fits a network whole, wherever it lies and whatever names it has.

    Args:
        checkpoint: What `read_checkpoint` returned.
        model: The network; its number of classes may be another than the checkpoint's.
        model_name: Its name in timm.
        part: Where in the checkpoint to look ("student", "model.module.student"); everywhere without it.

    Returns:
        The tensors by the network's names and in its types (a checkpoint in float16 or float64 becomes float32), with
        the counters that checkpoints of old versions of PyTorch lack.

    Raises:
        ValueError: Listing what is missing, what is not in the network, and what has another shape, and saying which of
            our networks would fit; when several parts of the checkpoint fit; when weights are not finite.
    """
    network = _Network.of(model, model_name)
    parts = _parts(checkpoint, part)
    fits = network.fitting_parts(parts)
    if len(fits) > 1:
        raise ValueError(
            f"{checkpoint.path} holds {len(fits)} networks that fit {model_name}: {_listed([f.part for f in fits])}. "
            "Take out one of them with hf-kcd convert, which has --part."
        )
    if not fits:
        raise ValueError(_complaint(checkpoint, parts, network, part))
    state_dict = {}
    for key, own in network.tensors.items():
        tensor = fits[0].tensors.get(key, own).to(own.dtype)
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(
                f"{key} in {checkpoint.path} has {int((~tensor.isfinite()).sum())} of {tensor.numel()} values NaN or "
                f"beyond {tensor.dtype}: the training that wrote it had diverged. Take an earlier checkpoint of it."
            )
        state_dict[key] = tensor
    return state_dict


def find_networks_in(checkpoint: Checkpoint, part: str | None = None) -> list[tuple[str, str]]:
    """Find out which of our networks a checkpoint holds.

    Args:
        checkpoint: What `read_checkpoint` returned.
        part: Where in the checkpoint to look; everywhere without it.

    Returns:
        Network names in timm, each with the place in the checkpoint where it lies ("" for its top).

    Raises:
        ValueError: When the checkpoint has no such part.
    """
    parts, found = _parts(checkpoint, part), []
    for name in timm.list_models("cifar_*"):
        with torch.device("meta"):
            network = _Network.of(timm.create_model(name), name)
        found += [(name, fit.part) for fit in network.fitting_parts(parts)]
    return found


def describe_networks_in(checkpoint: Checkpoint, part: str | None = None) -> str:
    """Say in a sentence which of our networks a checkpoint holds, or what it is when it holds none of them."""
    found = find_networks_in(checkpoint, part)
    if found:
        return f"It fits {' or '.join(f'{name} (under {place!r})' if place else name for name, place in found)}."
    layouts = filter(None, (describe_layout(tensors) for tensors in _parts(checkpoint, part).values()))
    layout = next(layouts, None)
    return f"It fits no cifar_* network whole{f'; it is laid out as {layout}' if layout else ''}."


@dataclass(frozen=True)
class _Fit:
    """How the tensors at one place of a checkpoint go into a network."""

    part: str
    tensors: dict[str, Tensor]
    # By kind of fault; what is wrong with the checkpoint's tensors in the checkpoint's own words.
    complaints: dict[str, list[str]]


@dataclass(frozen=True)
class _Network:
    """What has to be known of a network to hold a checkpoint against it."""

    name: str
    tensors: dict[str, Tensor]
    classifiers: tuple[str, ...]

    @classmethod
    def of(cls, model: nn.Module, name: str) -> "_Network":
        return cls(name, dict(model.state_dict()), classifiers_of(model))

    def fitting_parts(self, parts: Mapping[str, dict[str, Tensor]]) -> list[_Fit]:
        # Counting is quick, and what has another number of tensors cannot fit.
        size = _count_weights(self.tensors)
        fits = [self.hold_against(part, theirs) for part, theirs in parts.items() if _count_weights(theirs) == size]
        return [fit for fit in fits if not fit.complaints]

    def hold_against(self, part: str, theirs: dict[str, Tensor]) -> _Fit:
        names = reference_names(self.name, theirs) if has_reference_layout(self.name) else {key: key for key in theirs}
        tensors = {names[key]: tensor for key, tensor in theirs.items()}
        heads = {tensors[f"{name}.weight"].shape[:1] for name in self.classifiers if f"{name}.weight" in tensors}
        missing = [key for key in self.tensors if key not in tensors and not _is_counter(key)]
        unknown, reshaped, retyped = [], [], []
        for key, tensor in theirs.items():
            own = self.tensors.get(names[key])
            if own is None:
                unknown.append(key)
                continue
            shape = list(own.shape)
            # The number of classes is the checkpoint's, but one number in all of the classifier.
            if len(heads) == 1 and names[key].rpartition(".")[0] in self.classifiers:
                shape[:1] = next(iter(heads))
            if list(tensor.shape) != shape:
                reshaped.append(f"{key} {list(tensor.shape)} instead of {shape}")
            elif own.is_floating_point() and not tensor.is_floating_point():
                retyped.append(f"{key} {tensor.dtype}")
        kinds = ("missing", "not in the network", "of another shape", "of another type")
        faults = zip(kinds, (missing, unknown, reshaped, retyped), strict=True)
        return _Fit(part, tensors, {kind: keys for kind, keys in faults if keys})


def classifiers_of(model: nn.Module) -> tuple[str, ...]:
    """Name the layers of a timm network that have as many outputs as there are classes."""
    names = model.pretrained_cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _complaint(
    checkpoint: Checkpoint, parts: Mapping[str, dict[str, Tensor]], network: _Network, part: str | None
) -> str:
    # Of all places the one that has most in common with the network is the one that was meant.
    fits = [network.hold_against(place, tensors) for place, tensors in parts.items()]
    nearest = max(
        fits, key=lambda fit: (len(fit.tensors.keys() & network.tensors.keys()), len(fit.tensors), len(fit.part))
    )
    where = f" under {nearest.part!r}" if nearest.part else ""
    return "\n".join(
        [
            f"The weights{where} in {checkpoint.path} do not fit {network.name}:",
            *(f"  {len(keys)} {what}: {_listed(keys)}." for what, keys in nearest.complaints.items()),
            f"{describe_networks_in(checkpoint, part)} Name the network that they were trained with.",
        ]
    )


def _parts(checkpoint: Checkpoint, part: str | None) -> dict[str, dict[str, Tensor]]:
    """Cut a checkpoint at every level: the tensors below each place, by what follows the place in their names."""
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in checkpoint.tensors.items():
        # torch.compile puts its prefix before whatever was compiled, be it a single block.
        words = name.replace("_orig_mod.", "").split(".")
        for cut in range(len(words)):
            parts[".".join(words[:cut])][".".join(words[cut:])] = tensor
    if part is None:
        return dict(parts)
    # "student" is also what lies in "model.module.student.module".
    chosen = {place: tensors for place, tensors in parts.items() if f".{part}." in f".{place}."}
    if not chosen:
        raise ValueError(f"{checkpoint.path} has no part {part!r}. {describe_networks_in(checkpoint)}")
    return chosen


def _count_weights(names: Iterable[str]) -> int:
    return sum(not _is_counter(name) for name in names)


def _is_counter(name: str) -> bool:
    # Of the batches that a normalisation has seen; PyTorch before 0.4.1 kept none.
    return name.endswith(".num_batches_tracked")


def _named_tensors(content: object, place: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Mapping):
        for key, value in content.items():
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
    raise FileNotFoundError(f"The folder {folder} holds no weights: none of {', '.join(WEIGHT_FILES)} is there.")


def _read_torch_file(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    # Cut at different places, a file fails in every one of these ways.
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, LookupError, ValueError) as error:
        refused = re.search(r"nsupported (?i:global|class)\S*:?(?: GLOBAL)? (\S+)|TorchScript", str(error))
        if refused is None:
            raise ValueError(
                f"{path} is not a whole torch.save file. It was cut short or is of another kind: fetch it again."
            ) from error
        reason = (
            f"{path} holds more than tensors ({refused[1] or refused[0]}): reading it may run code out of it, which"
        )
        if "is blocked" in str(error):
            # Weights that somebody trained never ask for it.
            raise ValueError(f"{reason} is what this file was made for. Do not open it by other means.") from error
        raise ValueError(
            f"{reason} hf_kcd never does. Take a file that the same training wrote without it (beside RepDistiller's "
            "*_last.pth, which holds its options, lie ckpt_epoch_240.pth and *_best.pth). Or, where you trust it, open "
            "it once with torch.load(path, weights_only=False) and save the weights alone with "
            "torch.save(model.state_dict(), path) or as safetensors."
        ) from error
