"""The losses of the papers as pure functions: tensors in, a scalar out."""

from .cross_entropy import cross_entropy_loss
from .kd import kd_loss

__all__ = ["cross_entropy_loss", "kd_loss"]
