"""Finds, before a training, batches that its schedule will have and that its networks or its method cannot learn from."""

from collections.abc import Iterator

import torch
from torch import nn

from ..condensation import CondensationSchedule
from ..models import image_config, network_name
from .model import DistillationModel

_BatchNorm = nn.modules.batchnorm._BatchNorm


def check_batches(model: DistillationModel, schedule: CondensationSchedule, image_size: int) -> None:
    """Refuse a schedule with batches too small for the statistics of a network's batch normalization, or for the method."""
    method, epochs = model.method, range(schedule.num_epochs)
    for epoch in epochs:
        if (largest := schedule.batch_rows(epoch)[1]) < method.fewest_points:
            few_points = schedule.num_kept(epoch) < method.fewest_points
            advice = "keep more points" if few_points else "raise per_device_train_batch_size"
            raise ValueError(
                f"Method {method.name!r} compares the points of a batch and needs {method.fewest_points} of them, but batches "
                f"have {largest} in epoch {epoch + 1}: {advice}, or choose another method."
            )
    single = next((epoch for epoch in epochs if method.num_rows(schedule.batch_rows(epoch)[0]) == 1), None)
    if single is None:
        return
    for network, size in _networks(model, image_size):
        if _normalizes_single_values(network, size):
            raise ValueError(
                f"Epoch {single + 1} trains on {schedule.num_kept(single):,} points in batches of {schedule.batch_size}, one of "
                f"them of a single image, and {network_name(network)} normalizes with the statistics of a batch, which one value "
                f"per channel does not have: {_way_out(model, schedule)}."
            )


def _networks(model: DistillationModel, image_size: int) -> Iterator[tuple[nn.Module, tuple[int, int]]]:
    """Yield the networks that normalize with the statistics of a batch, each with the size of its images."""
    for network in (model.student, *model.method.networks().values()):
        yield network, (image_size, image_size)
    for teacher in model.teachers if model.method.teacher_batch_statistics else ():
        yield teacher, image_config(teacher).input_size[1:]


@torch.no_grad()
def _normalizes_single_values(network: nn.Module, size: tuple[int, int]) -> bool:
    """Run a network in evaluation mode on one image, and see whether a batch normalization that trains gets one value."""
    modes = {module: module.training for module in network.modules()}
    # Frozen ones keep their running statistics. Those of a teacher are frozen, and use the statistics of a batch even so.
    frozen_network = not any(weight.requires_grad for weight in network.parameters())
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    training = [norm for norm in norms if frozen_network or norm.weight is None or norm.weight.requires_grad]
    found = []
    handles = [
        norm.register_forward_pre_hook(lambda norm, inputs: found.append(inputs[0][0, 0].numel() == 1))
        for norm in training
    ]
    weight = next(network.parameters())
    try:
        network.eval()
        network(torch.zeros(1, image_config(network).input_size[0], *size, device=weight.device, dtype=weight.dtype))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return any(found)


def _way_out(model: DistillationModel, schedule: CondensationSchedule) -> str:
    """Name the nearest batch size under which no batch has a single image."""
    size = schedule.batch_size
    for other in sorted(range(2, 2 * size + 8), key=lambda other: abs(other - size)):
        changed = schedule.with_batches(other, schedule.world_size, schedule.accumulation)
        if all(model.method.num_rows(changed.batch_rows(epoch)[0]) > 1 for epoch in range(schedule.num_epochs)):
            return f"set per_device_train_batch_size to {other}" + (", or dataloader_drop_last" if size > 1 else "")
    return "keep more points, or choose a network without batch normalization"
