"""One file per distillation method: what it reads, what it trains, how it weighs its losses."""

from . import ce, kd  # registered by being imported
from .base import Batch, DistillationMethod
from .registry import as_teachers, available_methods, create_method, method_options, register_method
from .term import TermMethod

__all__ = [
    "Batch",
    "DistillationMethod",
    "TermMethod",
    "as_teachers",
    "available_methods",
    "ce",
    "create_method",
    "kd",
    "method_options",
    "register_method",
]
