"""Methods by name: how one is registered, listed and made."""

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from ..errors import unknown_name
from ..models import Layers, ModelSpec
from .base import DistillationMethod

_METHODS: dict[str, type[DistillationMethod]] = {}


def register_method(name: str) -> Callable[[type[DistillationMethod]], type[DistillationMethod]]:
    """Register a `DistillationMethod` class under a name (a decorator).

    Args:
        name: The acronym of its paper, in lower case.

    Raises:
        ValueError: When the name is taken.
        TypeError: When the class is no `DistillationMethod`.
    """

    def register(cls: type[DistillationMethod]) -> type[DistillationMethod]:
        if name in _METHODS:
            raise ValueError(
                f"Method {name!r} is registered already, as {_METHODS[name].__qualname__}: choose another name."
            )
        if not (isinstance(cls, type) and issubclass(cls, DistillationMethod)):
            raise TypeError(f"{cls!r} is no class derived from hf_kcd.methods.DistillationMethod.")
        cls.name = name
        _METHODS[name] = cls
        return cls

    return register


def get_method(name: str) -> type[DistillationMethod]:
    """Look a method's class up.

    Args:
        name: One of `available_methods()`.

    Raises:
        ValueError: For an unknown name.
    """
    if name not in _METHODS:
        raise unknown_name("method", name, _METHODS)
    return _METHODS[name]


def available_methods() -> list[str]:
    """List the names that `create_method` takes."""
    return sorted(_METHODS)


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
    """Make a distillation method for a pair of networks.

    Args:
        name: One of `available_methods()`.
        student: The student or its spec.
        teacher: The teacher or its spec; None for methods without one; a list, the teacher before its assistants, for
            methods with several.
        num_points: Number of points of the whole training set.
        student_layers, teacher_layers: Which maps of a network are its features: None for all, "stages" for the deepest of
            each size, or positions from shallow to deep. A spec has its layers already.
        **options: The method's own options (weights, temperature).

    Returns:
        The method, its modules freshly initialised.

    Raises:
        ValueError: For an unknown name or option, for a method that needs a teacher and gets none, and for a network that
            does not hand out what the method reads.
    """
    cls = get_method(name)
    teachers = as_teachers(teacher)
    if cls.teacher_reads and not teachers:
        raise ValueError(f"Method {name!r} needs a teacher: pass one, or train the student alone with method 'ce'.")
    valid = method_options(name)
    for option in options:
        if option not in valid:
            raise unknown_name(f"option of method {name!r}", option, valid)
    if len(teachers) > 1 and not cls.many_teachers:
        several = ", ".join(sorted(other for other, method in _METHODS.items() if method.many_teachers))
        raise ValueError(
            f"Method {name!r} has one teacher and got {len(teachers)}: give one. With several: {several}."
        )
    student = _spec(name, "student", student, cls.student_reads, student_layers)
    specs = [_spec(name, "teacher", one, cls.teacher_reads, teacher_layers) for one in teachers]
    return cls(student, specs if cls.many_teachers else next(iter(specs), None), num_points, **options)


def method_options(name: str) -> dict[str, Any]:
    """List the options of a method with their defaults, those that its class hands on with `**` included."""
    options: dict[str, Any] = {}
    for cls in get_method(name).__mro__:
        if "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(cls.__init__).parameters.values()
        own = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        options = {**own, **options}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return options


def paper_of(name: str) -> str:
    """Return authors and year of a method's paper, which the first line of its file ends with; "" where it has none."""
    first_line = (inspect.getmodule(get_method(name)).__doc__ or "").splitlines()[0]
    found = re.search(r"\(([^()]*\d{4})\)\.?$", first_line)
    return found[1] if found else ""


def as_teachers(teacher: Any) -> list[Any]:
    """List the teachers, of which there may be none, one, or several."""
    if teacher is None:
        return []
    return list(teacher) if isinstance(teacher, list | tuple) else [teacher]


def _spec(method: str, role: str, network: ModelSpec | nn.Module, reads: frozenset[str], layers: Layers) -> ModelSpec:
    if layers is not None and (isinstance(network, ModelSpec) or not reads & {"features", "preactivations"}):
        why = (
            "its spec has layers already" if isinstance(network, ModelSpec) else f"{method!r} reads no features of it"
        )
        raise ValueError(f"{role}_layers is {layers!r} for the {role}, but {why}: leave it out.")
    if isinstance(network, nn.Module):
        try:
            return ModelSpec.of(network, layers, reads)
        except ValueError as error:
            raise ValueError(f"Method {method!r} reads {', '.join(sorted(reads))} of the {role}. {error}") from error
    missing = sorted(reads - network.reads)
    if missing:
        raise ValueError(
            f"Method {method!r} reads {', '.join(missing)} of the {role}, which {network.name} does not hand out: choose "
            "another network or method."
        )
    return network
