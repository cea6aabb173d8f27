"""OFD: the student's pre-activations reach the teacher's, as far as these are not off (Heo et al., ICCV 2019)."""

from typing import Any

from torch import Tensor, nn

from ..losses import ofd_loss, ofd_margins
from ..models import ModelOutputs, ModelSpec
from .adapters import AdapterNorm
from .base import Batch
from .pairing import pair_stages, select_maps
from .registry import register_method
from .term import TermMethod


@register_method("ofd")
class OFD(TermMethod):
    """CE + 1/1000 x the partial squared distance of the stages' pre-activations, each stage half of the next deeper one.

    The teacher's maps are cut off at margins that its batch normalisations give, and it normalises with the statistics of
    the batch, as in the authors' code (whose teacher's running statistics drift thereby; here they stay). The student's go
    through a 1x1 convolution and normalisation; where a stage of it ends without an activation
    (`cifar_mobilenetv2_half`) its pre-activation is its output, as in the reference. The reference's pre-activations of
    ShuffleNetV2 lie before the shuffle, which the convolution undoes. On ImageNet the weight is 1/10000.

    Args:
        student, teacher, num_points: As in `TermMethod`.
        weight: Weight of the distance.
        **class_weights: What `TermMethod` takes besides.

    Raises:
        ValueError: When a pre-activation of the teacher comes out of no batch normalisation.
    """

    student_reads = frozenset({"logits", "preactivations"})
    teacher_reads = frozenset({"logits", "preactivations"})
    teacher_batch_statistics = True

    def __init__(
        self,
        student: ModelSpec,
        teacher: ModelSpec,
        num_points: int,
        *,
        weight: float = 1e-3,
        **class_weights: Any,
    ) -> None:
        super().__init__(student, teacher, num_points, weight=weight, **class_weights)
        self.pairs = pair_stages(student, teacher, "preactivations", "preactivations")
        self.connectors = nn.ModuleList(_connector(ours.channels, theirs.channels) for ours, theirs in self.pairs)
        for stage, (_, theirs) in enumerate(self.pairs):
            norm = teacher.preactivation_norms[theirs.position]
            if norm is None:
                raise ValueError(
                    f"{teacher.name} has no batch normalisation and activation behind which it hands out {theirs}, so there "
                    "is no margin for it: choose other layers with teacher_layers, or another teacher or method."
                )
            self.register_buffer(f"margin{stage}", ofd_margins(*norm))

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        ours, theirs = select_maps(self.pairs, student.preactivations, teacher.preactivations)
        connected = [connector(one) for connector, one in zip(self.connectors, ours, strict=True)]
        return ofd_loss(connected, theirs, [getattr(self, f"margin{stage}") for stage in range(len(self.pairs))])


def _connector(in_channels: int, out_channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, AdapterNorm(out_channels))
