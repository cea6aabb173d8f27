"""Transport to and from the Hugging Face Hub: download, upload, and what may leave this machine."""

from .download import fetch_files
from .errors import hub_errors
from .names import dataset_repository, network_repository
from .privacy import check_folder, without_folders
from .upload import full_name, upload

__all__ = [
    "check_folder",
    "dataset_repository",
    "fetch_files",
    "full_name",
    "hub_errors",
    "network_repository",
    "upload",
    "without_folders",
]
