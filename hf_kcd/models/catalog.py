"""What is known of a network without its weights: parameters, cost, taps, and published accuracies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..errors import warn_of_folder
from .configuration import image_config
from .loading import make_from_folder, no_such_network, without_memory
from .published import PUBLISHED_TOP1
from .spec import ModelSpec

_WILDCARDS = frozenset("*?[")


@dataclass(frozen=True)
class NetworkFacts:
    """What is known of a network before it is trained; `macs` are for one image, and `taps` its maps as [C, H, W]."""

    name: str
    num_parameters: int
    macs: int
    input_size: tuple[int, int, int]
    taps: tuple[tuple[int, int, int], ...]
    embedding_dim: int
    preactivations: bool
    published_top1: dict[str, float]


def find_networks(patterns: Sequence[str]) -> list[str]:
    """Find networks, each once, by timm names, wildcards ("vit_tiny*.*_in1k") and folders with `config.json`."""
    found: list[str] = []
    for pattern in patterns:
        if _WILDCARDS & set(pattern):
            # Only published weights have a tag.
            names = timm.list_models(pattern, pretrained="." in pattern)
        else:
            if _is_network(pattern):
                warn_of_folder("network", pattern)
            names = [pattern] if _is_network(pattern) or Path(pattern).is_dir() else []
        if not names:
            raise no_such_network(pattern)
        found += names
    return list(dict.fromkeys(found))


def describe_network(name: str) -> NetworkFacts:
    """Describe a network of `find_networks` without weights; nothing is downloaded, and usually no memory is used."""
    return without_memory(lambda: _make(name), lambda model: _describe(name, model))


def count_macs(make: Callable[[], nn.Module]) -> int:
    """Count the multiply-accumulates of a network's convolutions and matrix products for one image of its input size."""
    return without_memory(make, _count_macs)


def _make(name: str) -> nn.Module:
    return timm.create_model(name) if _is_network(name) else make_from_folder(Path(name))


def _count_macs(model: nn.Module) -> int:
    # The counter follows gradients through the modules, and fails where a module gets a weight as its input.
    model.eval().requires_grad_(False)
    images = torch.zeros(1, *image_config(model).input_size, device=next(model.parameters()).device)
    with FlopCounterMode(display=False) as counter:
        model(images)
    return counter.get_total_flops() // 2


def _describe(name: str, model: nn.Module) -> NetworkFacts:
    spec = ModelSpec.of(model)
    taps = zip(spec.feature_channels, spec.feature_sizes, strict=True)
    return NetworkFacts(
        name=name,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        macs=_count_macs(model),
        input_size=spec.input_size,
        taps=tuple((channels, *size) for channels, size in taps),
        embedding_dim=spec.embedding_dim,
        preactivations="preactivations" in spec.reads,
        published_top1=PUBLISHED_TOP1.get(name.removesuffix(".tv_in1k"), {}),
    )


def _is_network(name: str) -> bool:
    return timm.is_model_pretrained(name) if "." in name else timm.is_model(name)
