"""ONE: a network with several branches on one trunk; each branch learns from their gated ensemble."""

import math

import torch
from torch import Tensor, nn

from ..errors import whole_number
from ..losses import one_loss
from ..losses.common import check_temperature
from ..models import ModelOutputs, ModelSpec
from ..models.cifar import CifarNetwork
from .base import Batch, DistillationMethod, register_method
from .networks import untrained_network


@register_method("one")
class ONE(DistillationMethod):
    """The sum of all branches' CE, the ensemble's CE, and w(epoch) x the sum over the branches of T^2 KL(ensemble || branch).

    The student is the trunk and the first branch. The other branches are fresh copies of the layers after its last feature
    but one (in most networks, of the last stage) and train the trunk through that feature. The ensemble is the sum of the
    branches' logits, weighted by a gate on the same feature. w rises as exp(-5 (1 - epoch / `ramp_epochs`)^2) to 1. There is
    no teacher; a step also costs the copies' forward and backward passes. Copies and gate are not exported.

    Args:
        student: The spec of one of hf_kcd's `cifar_*` networks; `student_layers` chooses another start for the branches.
        num_branches: Number of branches with the student's own, at least 2; 3 in the authors' runs.
        temperature: T, positive; 3 in the paper.
        ramp_epochs: Epochs in which w rises; 80 of 300 in the authors' runs.

    Source: Lan et al., "Knowledge Distillation by On-the-Fly Native Ensemble", NeurIPS 2018, and its code for the gate.
    """

    paper = "Lan et al., 2018"
    student_reads = frozenset({"logits", "features"})
    teacher_reads = frozenset()

    def __init__(self, *args, num_branches: int = 3, temperature: float = 3.0, ramp_epochs: float = 80.0) -> None:
        super().__init__(*args)
        check_temperature(temperature)
        num_branches = whole_number("num_branches", num_branches, at_least=2)
        if not ramp_epochs > 0:
            raise ValueError(f"ramp_epochs is {ramp_epochs}: give a positive number of epochs.")
        self.temperature = temperature
        self.ramp_epochs = ramp_epochs
        self.branches = nn.ModuleList(_branch(self.student_spec) for _ in range(num_branches - 1))
        self.gate = Gate(self.student_spec.feature_channels[-2], num_branches)

    def forward(self, student: ModelOutputs, teacher: None, batch: Batch) -> dict[str, Tensor]:
        trunk = student.features[-2]
        branches = [student.logits, *(branch(trunk) for branch in self.branches)]
        ensemble = (self.gate(trunk)[:, :, None] * torch.stack(branches, dim=1)).sum(1)
        ramp = math.exp(-5 * max(0.0, 1 - self.epoch / self.ramp_epochs) ** 2)
        return {"one": one_loss(branches, ensemble, batch["labels"], self.temperature, ramp)}


class Gate(nn.Module):
    """Maps a feature [B, channels, H, W] to weights of the branches, [B, num_branches], that sum to 1."""

    def __init__(self, channels: int, num_branches: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, num_branches)
        self.norm = nn.BatchNorm1d(num_branches)

    def forward(self, feature: Tensor) -> Tensor:
        scores = self.linear(feature.mean((2, 3)))
        # A single image, the rest of an epoch, has no batch statistics.
        self.norm.train(self.training and len(scores) > 1)
        return self.norm(scores).relu().softmax(1)


def _branch(student: ModelSpec) -> nn.Module:
    network = untrained_network(student)
    if not isinstance(network, CifarNetwork) or len(student.layers) < 2:
        maps = f"{student.name} with {len(student.layers)} feature maps"
        raise ValueError(f"{maps} cannot be cut: choose one of hf_kcd's cifar_* networks, with at least 2 maps.")
    network.prune_shallow_layers(student.layers[-2])
    return network
