"""Methods by name: how they are listed and created."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..errors import unknown_name
from ..models import Layers, ModelSpec
from .base import METHODS, DistillationMethod

_RENAMED_OPTIONS = {
    "initialisation_epochs": "first_phase_epochs",
    "initialisation_learning_rate": "first_phase_learning_rate",
    "initialisation_decay_epochs": "first_phase_decay_epochs",
}


def get_method(name: str) -> type[DistillationMethod]:
    """Return the class of a method; a ValueError lists the names if this one is unknown."""
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]


def available_methods() -> list[str]:
    """List the names that `create_method` takes."""
    return sorted(METHODS)


def paper_of(name: str) -> str:
    """Return authors and year of a method's paper; "" without one."""
    return get_method(name).paper


def method_options(name: str) -> dict[str, Any]:
    """List the options of a method with their defaults: the keyword-only arguments of its and its bases' constructors.

    If the default is None, a class attribute of that name holds the real one, such as `weight`.
    """
    cls, options = get_method(name), {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        for one in parameters:
            if one.kind is one.KEYWORD_ONLY and one.name not in options:
                options[one.name] = getattr(cls, one.name, None) if one.default is None else one.default
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            break
    return options


def renamed_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of a method under their present names; a FutureWarning names each option that was renamed."""
    valid, found = method_options(name), {}
    for option, value in options.items():
        present = _RENAMED_OPTIONS.get(option, option)
        if present != option and option not in valid and present in valid:
            warnings.warn(f"Option {option} of method {name!r} is now {present}.", FutureWarning, stacklevel=3)
            option = present
        found[option] = value
    return found


def create_method(
    name: str,
    student: ModelSpec | nn.Module,
    teacher: ModelSpec | nn.Module | Sequence[ModelSpec | nn.Module] | None,
    num_points: int,
    *,
    student_layers: Layers = None,
    teacher_layers: Layers = None,
    **options: Any,
) -> DistillationMethod:
    """Create a distillation method for a pair of networks.

    Args:
        name: One of `available_methods()`.
        student, teacher: The networks or their specs. No teacher for methods without one; a list, the teacher before its
            assistants, for methods with several.
        num_points: Number of points of the whole training set.
        student_layers, teacher_layers: Which maps of a network are its features: None for all, "stages" for the deepest of
            each size, or positions from shallow to deep. A spec has its layers already.
        **options: The method's options (weights, temperature).

    Returns:
        The method, its modules freshly initialized.

    Raises:
        ValueError: For an unknown name or option, a missing teacher, or a network that lacks what the method reads.
    """
    cls = get_method(name)
    teachers = as_teachers(teacher)
    if cls.teacher_reads and not teachers:
        raise ValueError(f"Method {name!r} needs a teacher: pass one, or train the student alone with method 'ce'.")
    options, valid = renamed_options(name, options), method_options(name)
    for option in options:
        if option not in valid:
            raise unknown_name(f"option of method {name!r}", option, valid)
    if teacher_layers is not None and not teachers:
        raise ValueError(f"teacher_layers is {teacher_layers!r}, but there is no teacher: leave it out.")
    if len(teachers) > 1 and not cls.many_teachers:
        several = ", ".join(sorted(other for other, method in METHODS.items() if method.many_teachers))
        raise ValueError(f"Method {name!r} got {len(teachers)} teachers: give one. With several: {several}.")
    student = _spec(name, "student", student, cls.student_reads, student_layers)
    specs = [_spec(name, "teacher", one, cls.teacher_reads, teacher_layers) for one in teachers]
    return cls(student, specs if cls.many_teachers else next(iter(specs), None), num_points, **options)


def as_teachers(teacher: Any) -> list[Any]:
    """Return the teachers as a list: empty for None, and a single teacher in a list of one."""
    if teacher is None:
        return []
    return list(teacher) if isinstance(teacher, list | tuple) else [teacher]


def _spec(method: str, role: str, network: ModelSpec | nn.Module, reads: frozenset[str], layers: Layers) -> ModelSpec:
    if layers is not None and (isinstance(network, ModelSpec) or not reads & {"features", "preactivations"}):
        why = "its spec has layers" if isinstance(network, ModelSpec) else f"{method!r} reads no features of it"
        raise ValueError(f"{role}_layers is {layers!r} for the {role}, but {why}: leave it out.")
    if isinstance(network, nn.Module):
        try:
            return ModelSpec.of(network, layers, reads)
        except ValueError as error:
            raise ValueError(f"Method {method!r} reads {', '.join(sorted(reads))} of the {role}. {error}") from error
    missing = sorted(reads - network.reads)
    if missing:
        read = ", ".join(missing)
        raise ValueError(f"Method {method!r} reads {read} of the {role}, but {network.name} has none: choose another.")
    return network
