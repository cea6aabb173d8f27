"""Gradient checkpointing runs a block twice in a step; its batch normalizations must see the batch once."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn


def recomputes(network: nn.Module) -> bool:
    """Return whether gradient checkpointing is on in any part of a timm network."""
    return any(vars(module).get("grad_checkpointing") is True for module in network.modules())


@contextmanager
def frozen_statistics(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let batch normalizations use the batch's statistics, while their running ones stay."""
    norms = [module for module in modules if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter


@contextmanager
def one_update_per_step(network: nn.Module) -> Iterator[None]:
    """Let the batch normalizations of a checkpointed network keep their running statistics when a block is run again."""
    with ExitStack() as handles:
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                guard = _SecondRun()
                for handle in (
                    module.register_forward_pre_hook(guard.begin),
                    module.register_forward_hook(guard.end, always_call=True),
                ):
                    handles.callback(handle.remove)
        yield


class _SecondRun:
    """The hooks of one normalization."""

    def __init__(self) -> None:
        self._frozen: ExitStack | None = None

    def begin(self, module: nn.Module, args: tuple) -> None:
        # A forward pass within a backward pass is the second one: this is how torch.utils.checkpoint knows it, too.
        if torch._C._current_graph_task_id() != -1:
            self._frozen = ExitStack()
            self._frozen.enter_context(frozen_statistics([module]))

    def end(self, module: nn.Module, args: tuple, output: object) -> None:
        if self._frozen is not None:
            self._frozen.close()
            self._frozen = None
