"""DKD: the teacher's knowledge of the target class and of the other classes, weighted separately."""

from torch import Tensor

from ..losses import cross_entropy_loss, dkd_loss
from ..losses.common import check_temperature
from ..models import ModelOutputs
from .base import Batch, DistillationMethod, check_weights, register_method, warm_up


@register_method("dkd")
class DKD(DistillationMethod):
    """CE + min(epoch / 20, 1) (1 TCKD + 8 NCKD), each times T^2 at T = 4.

    Per pair on CIFAR-100 (mdistiller) beta is 8 for resnet32x4 -> resnet8x4, shufflenetv1, shufflenetv2, wrn_40_2 ->
    shufflenetv1, resnet50 -> mobilenetv2_half; 6 for vgg13 -> vgg8, mobilenetv2_half, wrn_40_2 -> wrn_16_2, wrn_40_1; 2
    for resnet56 -> resnet20, resnet110 -> resnet32. On ImageNet resnet34 -> resnet18 it is 0.5, with T = 1 and one epoch
    of warm-up. The epoch counts with its fraction; the reference takes whole ones, from 1. With two classes NCKD is 0.

    Args:
        ce_weight, alpha, beta: Weights of the cross-entropy with the labels, the target class and the other classes.
        temperature: T, positive.
        warmup_epochs: Epochs in which alpha and beta rise from 0; 0 for none.
    """

    paper = "Zhao et al., CVPR 2022"

    def __init__(
        self,
        *args,
        ce_weight: float = 1.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        warmup_epochs: float = 20.0,
    ) -> None:
        super().__init__(*args)
        check_weights(ce_weight=ce_weight, alpha=alpha, beta=beta, warmup_epochs=warmup_epochs)
        check_temperature(temperature)
        self.ce_weight = ce_weight
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.warmup_epochs = warmup_epochs

    def forward(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        labels, parts = batch["labels"], {}
        if self.ce_weight:
            parts["ce"] = self.ce_weight * cross_entropy_loss(student.logits, labels)
        if self.alpha or self.beta:
            decoupled = dkd_loss(student.logits, teacher.logits, labels, self.alpha, self.beta, self.temperature)
            parts["dkd"] = warm_up(self.epoch, self.warmup_epochs) * decoupled
        return parts
