"""FT: the student's last map, translated, is a paraphrase of the teacher's (Kim et al., NeurIPS 2018)."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..losses import ft_loss, hint_loss
from ..models import ModelOutputs, ModelSpec
from .adapters import AdapterNorm
from .base import Batch, check_weights
from .first_phase import check_phase
from .pairing import feature_maps, require_positions
from .registry import register_method
from .term import TermMethod


@register_method("ft")
class FT(TermMethod):
    """30 epochs in which a paraphraser learns to code the teacher's last map; then CE + 200 x the L1 of the factors.

    A factor is what the paraphraser's encoder, from then on fixed, makes of the teacher's map, and the translator of the
    student's. As in the code behind the published tables, the translator has batch normalisation, the paraphraser none,
    and the mean of squares over a factor's channels is compared; the paper compares the factors themselves.

    Args:
        student, teacher, num_points: As in `TermMethod`.
        weight: Weight of the factors.
        factor_ratio: Channels of a factor in relation to the teacher's map, above 0.
        initialisation_epochs: Epochs of the paraphraser, at least 1.
        initialisation_learning_rate: Its learning rate; None for that of the training, as the reference has it for VGG
            students.
        **class_weights: What `TermMethod` takes besides.
    """

    student_reads = frozenset({"logits", "features"})
    teacher_reads = frozenset({"logits", "features"})
    initialisation_reads_student = False

    def __init__(
        self,
        student: ModelSpec,
        teacher: ModelSpec,
        num_points: int,
        *,
        weight: float = 200.0,
        factor_ratio: float = 0.5,
        initialisation_epochs: int = 30,
        initialisation_learning_rate: float | None = 0.01,
        **class_weights: Any,
    ) -> None:
        super().__init__(student, teacher, num_points, weight=weight, **class_weights)
        check_weights(factor_ratio=factor_ratio)
        check_phase(initialisation_epochs, 1)
        if initialisation_learning_rate is not None and not initialisation_learning_rate > 0:
            raise ValueError(
                f"initialisation_learning_rate is {initialisation_learning_rate}: give a number above 0, or None for that of "
                "the training."
            )
        maps = feature_maps(student)[-1], feature_maps(teacher)[-1]
        require_positions(student, teacher, [maps])
        self.initialisation_epochs = initialisation_epochs
        self.initialisation_learning_rate = initialisation_learning_rate
        ours, theirs = (one.channels for one in maps)
        factor = max(1, int(theirs * factor_ratio))
        self.paraphraser = _layers(nn.Conv2d, [theirs, theirs, factor, factor], nn.Identity)
        self.restorer = _layers(nn.ConvTranspose2d, [factor, factor, theirs, theirs], nn.Identity)
        self.translator = _layers(nn.Conv2d, [ours, ours, factor, factor], AdapterNorm)

    def initialisation_losses(self, student: None, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        feature = teacher.features[-1]
        return {"paraphrase": hint_loss(self.restorer(self.paraphraser(feature)), feature)}

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        # Without a gradient its weights stay as they are, whatever the optimiser decays.
        with torch.no_grad():
            factor = self.paraphraser(teacher.features[-1])
        return ft_loss(self.translator(student.features[-1]), factor)


def _layers(convolution: type[nn.Module], widths: list[int], norm: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for in_width, out_width in pairwise(widths):
        layers += [convolution(in_width, out_width, 3, padding=1), norm(out_width), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)
