"""A run's student becomes a repository of the Hub. Masks publish themselves: `KnowledgeMask.push_to_hub`."""

from .student import push_student, write_student_repository

__all__ = ["push_student", "write_student_repository"]
