"""The losses of the papers as pure functions: tensors in, a scalar out."""

from .kd import kd_loss

__all__ = ["kd_loss"]
