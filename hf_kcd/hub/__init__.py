"""What leaves the machine: students and masks as repositories of the Hub, with their cards."""

from .cards import render_card, repository_of
from .mask_repository import push_mask, write_mask_repository
from .student import pictures_of, push_student, read_run, student_card, write_card, write_student_repository
from .upload import check_folder, upload

__all__ = [
    "check_folder",
    "pictures_of",
    "push_mask",
    "push_student",
    "read_run",
    "render_card",
    "repository_of",
    "student_card",
    "upload",
    "write_card",
    "write_mask_repository",
    "write_student_repository",
]
