"""Names of repositories: which data set or network on the Hub a name in a recipe or a command refers to."""

import re
from pathlib import Path

DATASET_REPOSITORIES = {"cifar100": "uoft-cs/cifar100", "imagenet": "ILSVRC/imagenet-1k"}
_NETWORK_PREFIXES = ("hf_hub:", "hf-hub:")
REPOSITORY_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


def dataset_repository(name: str) -> str | None:
    """Return the Hub id of the data set with this name; None for data that is not on the Hub."""
    if name in DATASET_REPOSITORIES:
        return DATASET_REPOSITORIES[name]
    return name if REPOSITORY_ID.fullmatch(name) and not Path(name).is_dir() else None


def network_repository(name: str | None) -> str | None:
    """Return "user/name" for a network called "hf_hub:user/name@revision"; None for one that is not from the Hub."""
    for prefix in _NETWORK_PREFIXES:
        if name and name.startswith(prefix):
            return name.removeprefix(prefix).partition("@")[0]
    return None
