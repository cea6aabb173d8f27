"""FT: the student's last map, translated, matches a paraphrase of the teacher's."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from ..losses import ft_loss, hint_loss
from ..models import ModelOutputs
from .adapters import AdapterNorm
from .base import Batch, FirstPhase, check_weights, register_method
from .stages import feature_maps, require_positions
from .term import TermMethod


@register_method("ft")
class FT(TermMethod):
    """30 epochs in which a paraphraser learns to encode the teacher's last map; then CE + 200 x the L1 of the factors.

    A factor is the output of the paraphraser's encoder, frozen by then, on the teacher's map, and of the translator on the
    student's. As in the code behind the published tables, the translator has batch normalization, the paraphraser none, and
    the mean of squares over a factor's channels is compared; the paper compares the factors themselves.

    Args:
        factor_ratio: Channels of a factor relative to the teacher's map, above 0.
        first_phase_epochs: Epochs of the paraphraser, at least 1.
        first_phase_learning_rate: Its learning rate; None for the training's, as in the reference for VGG students.
    """

    paper = "Kim et al., NeurIPS 2018"
    reads = ("logits", "features")
    weight = 200.0

    def __init__(
        self,
        *args,
        factor_ratio: float = 0.5,
        first_phase_epochs: int = 30,
        first_phase_learning_rate: float | None = 0.01,
        **options,
    ) -> None:
        super().__init__(*args, **options)
        check_weights(factor_ratio=factor_ratio)
        self.first_phase = FirstPhase(first_phase_epochs, False, first_phase_learning_rate)
        maps = feature_maps(self.student_spec)[-1], feature_maps(self.teacher_spec)[-1]
        require_positions(self.student_spec, self.teacher_spec, [maps])
        ours, theirs = (one.channels for one in maps)
        factor = max(1, int(theirs * factor_ratio))
        self.paraphraser = _layers(nn.Conv2d, [theirs, theirs, factor, factor], nn.Identity)
        self.restorer = _layers(nn.ConvTranspose2d, [factor, factor, theirs, theirs], nn.Identity)
        self.translator = _layers(nn.Conv2d, [ours, ours, factor, factor], AdapterNorm)

    def first_phase_losses(self, student: None, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        feature = teacher.features[-1]
        return {"paraphrase": hint_loss(self.restorer(self.paraphraser(feature)), feature)}

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        # Without a gradient the paraphraser keeps its weights, even under weight decay.
        with torch.no_grad():
            factor = self.paraphraser(teacher.features[-1])
        return ft_loss(self.translator(student.features[-1]), factor)


def _layers(convolution: type[nn.Module], widths: list[int], norm: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for in_width, out_width in pairwise(widths):
        layers += [convolution(in_width, out_width, 3, padding=1), norm(out_width), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)
