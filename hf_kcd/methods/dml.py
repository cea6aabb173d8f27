"""DML: untrained networks that learn together, each from the labels and from the others."""

from collections.abc import Sequence

from torch import Tensor, nn

from ..losses import cross_entropy_loss, dml_loss
from ..losses.common import check_temperature
from ..models import ModelOutputs, ModelSpec, image_config, load_model
from .base import Batch, DistillationMethod, check_weights, register_method
from .networks import takes, untrained_network


@register_method("dml")
class DML(DistillationMethod):
    """CE + `weight` x the mean over the other networks of T^2 KL(other || own), for the student and for each of its peers.

    All networks learn in one step under one optimizer, from the others' detached outputs in that step. (In the authors' code
    the peers step in turn, with fresh forward passes.) There is no teacher; a step costs the forward and backward passes of
    all networks. Each peer is evaluated and saved beside the student, so that the best can be chosen.

    Args:
        peers: timm names of the other networks, at least one; None for another network of the student's architecture.
        weight, temperature: Weight of the divergences, and T, positive; 1 in the paper.

    Source: Zhang et al., "Deep Mutual Learning", CVPR 2018.
    """

    paper = "Zhang et al., 2018"
    teacher_reads = frozenset()

    def __init__(
        self, *args, peers: Sequence[str] | None = None, weight: float = 1.0, temperature: float = 1.0
    ) -> None:
        super().__init__(*args)
        student = self.student_spec
        check_weights(weight=weight)
        check_temperature(temperature)
        if isinstance(peers, str) or (peers is not None and len(peers) == 0):
            raise ValueError(f"peers is {peers!r}: give a list of at least one timm name, e.g. ['{student.name}'].")
        self.weight = weight
        self.temperature = temperature
        named = [_peer(name, student) for name in peers or ()]
        self.peers = nn.ModuleList(named or [untrained_network(student)])

    def forward(self, student: ModelOutputs, teacher: None, batch: Batch) -> dict[str, Tensor]:
        logits = [student.logits, *(peer(batch["pixel_values"]) for peer in self.peers)]
        parts = {}
        for number, own in enumerate(logits):
            others = logits[:number] + logits[number + 1 :]
            suffix = f"_peer_{number}" if number else ""
            parts[f"ce{suffix}"] = cross_entropy_loss(own, batch["labels"])
            if self.weight:
                parts[f"dml{suffix}"] = self.weight * dml_loss(own, others, self.temperature)
        return parts

    def networks(self) -> dict[str, nn.Module]:
        return {f"peer_{number}": network for number, network in enumerate(self.peers, start=1)}


def _peer(name: str, student: ModelSpec) -> nn.Module:
    network = load_model(name, student.num_classes)
    own_size = image_config(network).input_size
    network.pretrained_cfg.update(input_size=student.input_size, mean=student.mean, std=student.std)
    (_, height, width), size = image_config(network).input_size, student.input_size
    if (height, width) != size[1:] or not takes(network, size):
        images = f"images of {own_size[1]} x {own_size[2]} only, not {size[1]} x {size[2]}"
        raise ValueError(f"The peer {name} takes {images}, which {student.name} gets: choose another network.")
    return network
