"""OFD: the student's pre-activations reach the teacher's, where the teacher's neurons are active."""

from torch import Tensor, nn

from ..losses import ofd_loss, ofd_margins
from ..models import ModelOutputs, ModelSpec
from .adapters import AdapterNorm
from .base import Batch, register_method
from .stages import StageMethod


@register_method("ofd")
class OFD(StageMethod):
    """CE + 1/1000 x the partial squared distance of the stages' pre-activations; a stage counts half of the next deeper one.

    The teacher's maps are cut off at margins that its batch normalizations give. It normalizes with the statistics of the
    batch, as in the authors' code, where the teacher's running statistics drift; here they stay. A 1x1 convolution and
    normalization adapts the student's maps. A student's stage without an activation at its end (`cifar_mobilenetv2_half`)
    gives its output, as in the reference. The reference's pre-activations of ShuffleNetV2 lie before the shuffle, which the
    convolution undoes. On ImageNet the weight is 1/10000.
    """

    paper = "Heo et al., ICCV 2019"
    reads = ("logits", "preactivations")
    weight = 1e-3
    teacher_batch_statistics = True

    def __init__(self, student: ModelSpec, teacher: ModelSpec, num_points: int, **options) -> None:
        super().__init__(student, teacher, num_points, **options)
        self.connectors = nn.ModuleList(_connector(ours.channels, theirs.channels) for ours, theirs in self.pairs)
        for stage, (_, theirs) in enumerate(self.pairs):
            norm = teacher.preactivation_norms[theirs.position]
            if norm is None:
                raise ValueError(
                    f"{teacher.name} has no batch normalization and activation at {theirs}, so OFD has no margin for it: "
                    "choose other layers with teacher_layers, or another teacher or method."
                )
            self.register_buffer(f"margin{stage}", ofd_margins(*norm))

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        ours, theirs = self.stages(student, teacher)
        connected = [connector(one) for connector, one in zip(self.connectors, ours, strict=True)]
        return ofd_loss(connected, theirs, [getattr(self, f"margin{stage}") for stage in range(len(self.pairs))])


def _connector(in_channels: int, out_channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, AdapterNorm(out_channels))
