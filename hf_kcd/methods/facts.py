"""What a distillation method reads, trains and stores for a pair of networks."""

from dataclasses import dataclass

from torch import nn

from ..models import load_model
from .registry import create_method, get_method, paper_of


@dataclass(frozen=True)
class MethodFacts:
    """Facts about a method for a pair of networks: its `num_parameters` train beside the student, `memory_bytes` are buffers."""

    name: str
    paper: str
    student_reads: tuple[str, ...]
    teacher_reads: tuple[str, ...]
    first_phase_epochs: int
    num_parameters: int
    memory_bytes: int


def describe_method(name: str, student: str, teacher: str, num_points: int) -> MethodFacts:
    """Collect the facts about a method for a student and a teacher of timm and a training set of `num_points`."""
    cls = get_method(name)
    method = create_method(name, load_model(student), example_teachers(name, teacher), num_points)
    return MethodFacts(
        name=name,
        paper=paper_of(name),
        student_reads=_in_order(cls.student_reads),
        teacher_reads=_in_order(cls.teacher_reads),
        first_phase_epochs=method.first_phase.epochs if method.first_phase else 0,
        num_parameters=sum(parameter.numel() for parameter in method.parameters()),
        memory_bytes=sum(buffer.numel() * buffer.element_size() for buffer in method.buffers()),
    )


def example_teachers(name: str, teacher: str) -> list[nn.Module]:
    """Create teachers by their timm name to try a method with: two for a method of several teachers, otherwise one."""
    return [load_model(teacher) for _ in range(2 if get_method(name).many_teachers else 1)]


def _in_order(reads: frozenset[str]) -> tuple[str, ...]:
    return tuple(read for read in ("logits", "embedding", "features", "preactivations") if read in reads)
