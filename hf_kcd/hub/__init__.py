"""What leaves the machine: students and masks as repositories of the Hub, with their cards."""

from .cards import render_card, repository_of
from .upload import check_folder, upload

__all__ = ["check_folder", "render_card", "repository_of", "upload"]
