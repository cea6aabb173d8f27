"""What a distillation method brings along for a pair of networks."""

from dataclasses import dataclass

from ..models import load_model
from .registry import create_method, get_method, paper_of


@dataclass(frozen=True)
class MethodFacts:
    """What is known of a method for a pair of networks.

    Args:
        name: Its name.
        paper: Authors and year.
        student_reads, teacher_reads: What it reads of either network.
        initialisation_epochs: Epochs of its first phase; 0 for none.
        num_parameters: Weights that train beside the student: adapters, peers.
        memory_bytes: Bytes of its buffers, memories of all points above all.
    """

    name: str
    paper: str
    student_reads: tuple[str, ...]
    teacher_reads: tuple[str, ...]
    initialisation_epochs: int
    num_parameters: int
    memory_bytes: int


def describe_method(name: str, student: str, teacher: str, num_points: int) -> MethodFacts:
    """Say what a method brings along for a pair of networks.

    Args:
        name: One of `available_methods()`.
        student: The student's name in timm.
        teacher: The teacher's name in timm.
        num_points: Number of points of the training set, for memories.
    """
    cls = get_method(name)
    # A description needs no weights of networks, but those of adapters are counted where they are.
    teachers = [load_model(teacher) for _ in range(2 if cls.many_teachers else 1)]
    method = create_method(name, load_model(student), teachers, num_points)
    return MethodFacts(
        name=name,
        paper=paper_of(name),
        student_reads=_in_order(cls.student_reads),
        teacher_reads=_in_order(cls.teacher_reads),
        initialisation_epochs=method.initialisation_epochs,
        num_parameters=sum(parameter.numel() for parameter in method.parameters()),
        memory_bytes=sum(buffer.numel() * buffer.element_size() for buffer in method.buffers()),
    )


def _in_order(reads: frozenset[str]) -> tuple[str, ...]:
    return tuple(read for read in ("logits", "embedding", "features", "preactivations") if read in reads)
