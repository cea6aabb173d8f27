"""Distillation methods, one file each. A file here that registers a method needs no further entry."""

import importlib
import pkgutil

from .base import Batch, DistillationMethod, FirstPhase, register_method
from .registry import as_teachers, available_methods, create_method, method_options, paper_of, renamed_options
from .term import FirstPhaseMethod, TermMethod

__all__ = [
    "Batch",
    "DistillationMethod",
    "FirstPhase",
    "FirstPhaseMethod",
    "TermMethod",
    "as_teachers",
    "available_methods",
    "create_method",
    "method_options",
    "paper_of",
    "register_method",
    "renamed_options",
]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
