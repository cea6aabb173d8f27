"""The form of methods whose term initialises the student: a first phase of it alone, then the labels."""

from typing import Any

from torch import Tensor

from ..models import ModelOutputs
from .base import Batch
from .term import TermMethod


class FirstPhaseMethod(TermMethod):
    """`weight` x the term, alone, in a first phase; after it `ce_weight` CE + `kd_weight` T^2 KL without the term.

    With no such phase the term is part of the training instead, as in every `TermMethod`.

    Args:
        student, teacher, num_points: As in `TermMethod`.
        initialisation_epochs: Epochs of the first phase; 0 for none.
        **weights: What `TermMethod` takes besides.

    Raises:
        ValueError: For a number of epochs that is not whole or is negative, and when a phase would have no loss.
    """

    def __init__(self, student, teacher, num_points, *, initialisation_epochs: int = 30, **weights: Any) -> None:
        super().__init__(student, teacher, num_points, **weights)
        check_phase(initialisation_epochs, 0)
        if initialisation_epochs and not (self.weight and self.ce_weight + self.kd_weight):
            raise ValueError(
                f"weight is {self.weight}, ce_weight {self.ce_weight}, kd_weight {self.kd_weight}: the first phase minimises the "
                "term and the training the other two, so give either a weight above 0, or set initialisation_epochs to 0."
            )
        self.initialisation_epochs = initialisation_epochs

    def initialisation_losses(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        return {self.name: self.weight * self.term(student, teacher, batch)}

    def forward(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        if self.initialisation_epochs:
            return self.class_parts(student, teacher, batch)
        return super().forward(student, teacher, batch)


def check_phase(initialisation_epochs: int, least: int) -> None:
    """Refuse a number of epochs of a first phase that is not whole, or below the least."""
    if not isinstance(initialisation_epochs, int) or initialisation_epochs < least:
        raise ValueError(f"initialisation_epochs is {initialisation_epochs}: give a whole number of at least {least}.")
