"""Networks that are used for a time: whatever is set in them meanwhile is put back."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_MODES = ("training", "track_running_stats")
_RECOMPUTES = "grad_checkpointing"


@contextmanager
def lent(network: nn.Module, modes: bool = True) -> Iterator[None]:
    """Afterwards leave a network as it was: device, dtype, memory format and gradient checkpointing, but not its values.

    Args:
        network: The network; values that change meanwhile stay changed, unless its dtype changed too.
        modes: Also put back train and evaluation modes, the flags of batch normalizations, and what needs a gradient.
    """
    names = (*_MODES, _RECOMPUTES) if modes else (_RECOMPUTES,)
    flags = [
        (module, name, vars(module)[name]) for module in network.modules() for name in names if name in vars(module)
    ]
    parameters = [(parameter, parameter.data, parameter.requires_grad) for parameter in network.parameters()]
    buffers = [
        (module, *item) for module in network.modules() for item in module._buffers.items() if item[1] is not None
    ]
    try:
        yield
    finally:
        if modes:
            # First through `train`, where some modules drop what they cached while evaluating.
            network.train()
        for module, name, value in flags:
            setattr(module, name, value)
        for parameter, data, requires_grad in parameters:
            if modes:
                parameter.requires_grad_(requires_grad)
            if _stays(parameter, data):
                parameter.data = data
        for module, name, buffer in buffers:
            now = module._buffers.get(name)
            if now is not None and now is not buffer and _stays(now, buffer):
                module._buffers[name] = buffer


def _stays(now: torch.Tensor, before: torch.Tensor) -> bool:
    """Bring what was learned back to where a tensor was; return whether it belongs there."""
    if now.data_ptr() == before.data_ptr() and now.stride() == before.stride():
        return False
    if now.shape != before.shape:
        return False
    # A cast loses bits: the values from before are the right ones.
    if now.dtype == before.dtype:
        before.copy_(now.detach())
    return True
