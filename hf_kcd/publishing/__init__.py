"""Turns a run into repositories: a student and a knowledge mask, each in one commit."""

from .mask import push_mask, write_mask_repository
from .student import push_student, write_student_repository

__all__ = ["push_mask", "push_student", "write_mask_repository", "write_student_repository"]
