"""What a network can give, found by running it once on one image: its maps, its activations, its head."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .configuration import image_config, network_name
from .lending import lent

STAGES = "stages"
"""The choice of layers that takes the deepest map of each size."""

Layers = str | Sequence[int] | None
"""Which maps of a network are its features: None for all, "stages" for the deepest of each size, or positions from
shallow to deep; negative ones count from the end."""

Norm = tuple[Tensor, Tensor]
"""Weight and bias of a batch normalization, each [C]."""

# They also hold modules that are not activations; none of those returns a map of its input's shape.
_ACTIVATION_MODULES = ("torch.nn.modules.activation", "timm.layers.activations", "timm.layers.activations_me")


@dataclass(frozen=True)
class NetworkProbe:
    """What one pass over a network found."""

    name: str
    layers: tuple[int, ...]  # positions of the features among all maps
    feature_shapes: tuple[tuple[int, int, int], ...]
    preactivated: tuple[int, ...]  # those of `layers` with a pre-activation: all but the stem, position 0
    # For each of `preactivated`: the module that returns it, and in which of its calls (none with `forward_taps`);
    # and the batch normalization before its activation.
    activations: tuple[tuple[nn.Module, int], ...]
    norms: tuple[Norm | None, ...]
    embedding_dim: int
    classifier_dims: int | None  # of the input of a head of one layer: 2, or 4 for a convolution
    head_is_random: bool  # dropout or batch normalization before the embedding
    refusals: dict[str, str]  # the outputs that the network does not provide, with the reason

    def require(self, reads: frozenset[str]) -> None:
        """Raise a ValueError for outputs that the network does not provide: which, why, and what to do."""
        for read in sorted(reads & self.refusals.keys()):
            raise ValueError(f"{self.name} provides no {read}: {self.refusals[read]} (The cifar_* networks have all.)")


def probe_network(model: nn.Module, layers: Layers = None) -> NetworkProbe:
    """Run a network once on one image, leaving no trace in it, and find out what it provides."""
    name, size = network_name(model), image_config(model).input_size
    weight = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    # Not zeros: a bias-free network maps them to zeros, which hides differences.
    image = torch.linspace(-1, 1, size[0] * size[1] * size[2], device=weight.device).view(1, *size).to(weight.dtype)
    refusals: dict[str, str] = {}
    watched = [module for module in model.modules() if type(module).__module__ in _ACTIVATION_MODULES]
    try:
        with torch.no_grad(), lent(model):
            model.eval()
            with _Norms() as norms, _recorded(watched) as activations:
                final, maps, taps = _run(model, image, refusals)
            head = _probe_head(model, final, refusals)
    except (RuntimeError, ValueError, AssertionError) as error:
        said = f"{name} does not run on an image of its input size, {' x '.join(map(str, size))}: {error}"
        raise ValueError(f"{said} Set the size it was made for in its pretrained_cfg['input_size'].") from error

    positions = () if "features" in refusals else _positions(name, layers, maps)
    preactivated = tuple(position for position in positions if position > 0)
    ends: list[_Call | None] = []
    if taps is None and "features" not in refusals:
        # The same object, not equal values: the feature is what the activation returned.
        ends = [next((call for call in reversed(activations) if call.returned is one), None) for one in maps]
        if any(ends[position] is None for position in preactivated):
            refusals["preactivations"] = _no_activation(ends, preactivated)
    if positions and not preactivated:
        refusals["preactivations"] = "position 0 is its stem, which has none. Choose deeper layers."
    if "preactivations" in refusals:
        preactivated = ()
    return NetworkProbe(
        name=name,
        layers=positions,
        feature_shapes=tuple(tuple(maps[position].shape[1:]) for position in positions),
        preactivated=preactivated,
        activations=tuple((ends[position].module, ends[position].number) for position in preactivated if ends),
        norms=tuple(
            norms.before(ends[position].given if ends else taps[position - 1], maps[position] if taps else None)
            for position in preactivated
        ),
        refusals=refusals,
        **head,
    )


def _run(model: nn.Module, image: Tensor, refusals: dict[str, str]) -> tuple[Any, list[Tensor], list[Tensor] | None]:
    """Run up to the head; return its input, all maps, and the pre-activations of a network with `forward_taps`."""
    final, maps, taps = None, [], None
    if hasattr(model, "forward_taps"):
        final, maps, taps = model.forward_taps(image)
    elif hasattr(model, "forward_intermediates"):
        final, maps = model.forward_intermediates(image, output_fmt="NCHW")
    elif hasattr(model, "forward_features"):
        final = model.forward_features(image)
    if not maps or any(one.ndim != 4 for one in maps):
        fault = "its features are not maps [B, C, H, W]" if maps else "it has no feature maps (forward_intermediates)"
        reason = f"{fault}. Choose another network or method."
        refusals.update(features=reason, preactivations=reason)
    return final, maps, taps


def _probe_head(model: nn.Module, final: Any, refusals: dict[str, str]) -> dict[str, Any]:
    """Run the head up to the embedding, then to the logits, and compare the classifier's input with the embedding."""
    found = {"embedding_dim": 0, "classifier_dims": None, "head_is_random": False}
    if final is None or not hasattr(model, "forward_head"):
        refusals["embedding"] = "it has no forward_features or no forward_head. Choose another network or method."
        return found
    with _RandomCalls() as before:
        embedding = _flat(model.forward_head(final, pre_logits=True))
    if embedding.ndim != 2:
        shape = list(embedding.shape)
        refusals["embedding"] = f"its classifier's input has the shape {shape}. Create it with its own global_pool."
        return found
    found |= {"embedding_dim": embedding.shape[1], "head_is_random": before.count > 0}
    classifier = model.get_classifier()
    if not isinstance(classifier, nn.Module):
        return found
    with _recorded([classifier]) as calls, _RandomCalls() as whole:
        logits = model.forward_head(final)
    if len(calls) != 1:
        return found
    given = _flat(calls[0].given)
    with _RandomCalls() as within:
        classifier(calls[0].given)
    # Some heads add to the layer's output, compute the embedding within the layer, or have dropout behind it.
    takes_embedding = given.shape == embedding.shape and (given.is_meta or torch.equal(given, embedding))
    # On the meta device nothing has memory, and every pointer is 0.
    gives_logits = calls[0].returned.untyped_storage().data_ptr() == logits.untyped_storage().data_ptr()
    if takes_embedding and gives_logits and whole.count == before.count + within.count:
        found["classifier_dims"] = calls[0].given.ndim
    return found


def _positions(name: str, layers: Layers, maps: list[Tensor]) -> tuple[int, ...]:
    if layers is None:
        return tuple(range(len(maps)))
    if layers == STAGES:
        return tuple(sorted({one.shape[2:]: position for position, one in enumerate(maps)}.values()))
    if isinstance(layers, str) or not layers or any(type(layer) is not int for layer in layers):
        raise ValueError(f"The layers are {layers!r}: give positions such as 2 5 8, or the word 'stages'.")
    for layer in layers:
        if not -len(maps) <= layer < len(maps):
            raise ValueError(f"Layer {layer} of {name} does not exist: it has {len(maps)}, counted from 0.")
    positions = tuple(layer % len(maps) for layer in layers)
    if any(deeper <= shallower for shallower, deeper in pairwise(positions)):
        raise ValueError(f"The layers of {name} are {list(layers)}: give each once, from shallow to deep.")
    return positions


@dataclass(frozen=True)
class _Call:
    """A call of a module: the module, how often it was called before, its input and its output."""

    module: nn.Module
    number: int
    given: Tensor
    returned: Tensor


def _no_activation(ends: list[_Call | None], wanted: tuple[int, ...]) -> str:
    without = ", ".join(str(position) for position in wanted if ends[position] is None)
    usable = ", ".join(str(position) for position, end in enumerate(ends) if position > 0 and end is not None)
    advice = f"Choose among layers {usable}, which do." if usable else "Choose another network or method."
    return f"its map at layer {without} does not end in an activation. {advice}"


@contextmanager
def _recorded(modules: Sequence[nn.Module]) -> Iterator[list[_Call]]:
    """Note each call of the modules."""
    calls: list[_Call] = []

    def note(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append(_Call(module, sum(call.module is module for call in calls), args[0], output))

    handles = [module.register_forward_hook(note) for module in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


class _RandomCalls(TorchFunctionMode):
    """Counts what differs between training passes: batch normalizations, and dropouts that drop."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        drops = function is F.dropout and (args[1] if len(args) > 1 else kwargs.get("p", 0.5)) > 0
        self.count += function is F.batch_norm or drops
        return function(*args, **kwargs)


class _Norms(TorchFunctionMode):
    """Follows tensors from their last batch normalization through sums; of two branches the longer one counts."""

    def __init__(self) -> None:
        super().__init__()
        # By id: the tensor (kept, so that its id is not reused), the normalizations on its longest path, and its last one.
        self._known: dict[int, tuple[Tensor, int, Norm | None]] = {}

    def before(self, given: Tensor, feature: Tensor | None) -> Norm | None:
        """Find the normalization before an activation by its input; equal to `feature` means no activation."""
        if given is feature:
            return None
        return self._known[id(given)][2] if id(given) in self._known else None

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        inputs = [self._known[id(one)] for one in _tensors(args) if id(one) in self._known]
        _, depth, norm = max(inputs, key=lambda known: known[1], default=(None, 0, None))
        adds = getattr(function, "__name__", "").strip("_") in ("add", "iadd", "radd")
        if function is F.batch_norm:
            given = inspect.signature(F.batch_norm).bind(*args, **(kwargs or {})).arguments
            weight, bias = given.get("weight"), given.get("bias")
            depth, norm = depth + 1, None if weight is None or bias is None else (weight.detach(), bias.detach())
        for one in _tensors((result,)):
            if function is F.batch_norm or adds:
                self._known[id(one)] = (one, depth, norm)
            else:
                # A tensor changed in place, as by an activation, keeps its entry.
                self._known.setdefault(id(one), (one, depth, None))
        return result


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _flat(x: Tensor) -> Tensor:
    return x.flatten(1) if x.ndim == 4 and x.shape[2:] == (1, 1) else x
