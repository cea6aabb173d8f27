"""The tensor names of our networks in RepDistiller's `models/`, which mdistiller, SSKD and TAKD's ResNets share."""

import re
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from ..errors import unknown_name

_Replacement = str | Callable[[re.Match[str]], str]


def _name_in_block(match: re.Match[str]) -> str:
    # A VGG block is a row of (convolution, normalization, ReLU).
    block, position = int(match[1]), int(match[2])
    return f"layer{block}.{position // 3}.{('conv', 'bn')[position % 3]}."


def _name_in_bottleneck(match: re.Match[str]) -> str:
    position = int(match[3])
    return f"layer{match[1]}.{match[2]}.{('conv', 'bn')[position % 3]}{position // 3 + 1}."


_LINEAR: tuple[str, _Replacement] = (r"^linear\.", "fc.")
_LAYOUTS: dict[str, list[tuple[str, _Replacement]]] = {
    "cifar_resnet50": [(r"\.shortcut\.", ".downsample."), _LINEAR],
    "cifar_resnet": [],
    "cifar_wrn": [(r"^block(\d)\.layer\.", r"layer\1."), (r"\.convShortcut\.", ".shortcut.")],
    "cifar_vgg": [(r"^block(\d)\.(\d*[0134679])\.", _name_in_block), (r"^classifier\.", "fc.")],
    "cifar_mobilenetv2": [
        (r"^blocks\.(\d)\.(\d)\.conv\.([013467])\.", _name_in_bottleneck),
        (r"^conv([12])\.([01])\.", lambda match: f"{('conv', 'bn')[int(match[2])]}{match[1]}."),
        # A sequence of one in RepDistiller and mdistiller, the layer itself in SSKD.
        (r"^classifier\.(0\.)?", "fc."),
    ],
    "cifar_shufflenetv1": [_LINEAR],
    "cifar_shufflenetv2": [_LINEAR],
}

_DEPTHS = (
    ("resnet", r"layer\d\.\d+\.conv\d\.weight$", 2),
    ("wide resnet", r"block\d\.layer\.\d+\.conv\d\.weight$", 4),
    ("vgg", r"block\d\.\d+\.weight$", 3),
)
"""By family: the names of the layers that count for the depth, and the number of other layers."""


def has_reference_layout(model_name: str) -> bool:
    """Return whether `convert_reference_state_dict` knows a network."""
    return model_name.startswith(tuple(_LAYOUTS))


def reference_names(model_name: str, names: Iterable[str]) -> dict[str, str]:
    """Map the tensor names of a reference program's checkpoint to ours; ours already, and unknown ones, stay."""
    family = next((family for family in _LAYOUTS if model_name.startswith(family)), None)
    if family is None:
        raise unknown_name("network with a reference layout", model_name, [f"{family}*" for family in _LAYOUTS])
    names, renamed = list(names), {}
    taken = set(names)
    for name in names:
        new = name
        for pattern, replacement in _LAYOUTS[family]:
            new = re.sub(pattern, replacement, new)
        # Two tensors never get one name: the second keeps its own, and is found to be in no network.
        renamed[name] = name if new in taken else new
        taken.add(renamed[name])
    return renamed


def convert_reference_state_dict(model_name: str, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a checkpoint of RepDistiller, mdistiller, SSKD or TAKD to those of our network.

    Args:
        model_name: One of our networks ("cifar_wrn_40_2").
        state_dict: The network's tensors by name, without prefixes; names that are ours already stay.

    Returns:
        The same tensors under our names.

    Raises:
        ValueError: For a network without a known reference layout.
    """
    names = reference_names(model_name, state_dict)
    return {names[name]: tensor for name, tensor in state_dict.items()}


def describe_layout(state_dict: Mapping[str, Tensor]) -> str | None:
    """Describe in a few words the architecture of a state dict that fits none of our networks; None when unknown."""
    if any(name.startswith("conv_layers.") for name in state_dict):
        return "a plane network of TAKD (convolutions and hidden linear layers in a row), which hf_kcd does not have"
    for family, layer, others in _DEPTHS:
        shapes = [tensor.shape for name, tensor in state_dict.items() if re.match(layer, name) and tensor.ndim == 4]
        # ShuffleNets have the same names, but depthwise convolutions.
        if shapes and all(shape[1] > 1 for shape in shapes):
            return f"a {family} of depth {len(shapes) + others} with {shapes[-1][0]} channels at its end"
    return None
