"""Which repository of the Hub a name of a data set or a network refers to."""

import re
from pathlib import Path

# Every card of ours has this tag.
TAG = "hf_kcd"
DATASET_REPOSITORIES = {"cifar100": "uoft-cs/cifar100", "imagenet": "ILSVRC/imagenet-1k"}
REPOSITORY_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


def dataset_repository(name: str) -> str | None:
    """Return the Hub id of a data set; None for data that is not on the Hub."""
    if name in DATASET_REPOSITORIES:
        return DATASET_REPOSITORIES[name]
    return name if REPOSITORY_ID.fullmatch(name) and not Path(name).is_dir() else None


def network_repository(name: str | None) -> str | None:
    """Return "user/name" for a network called "hf_hub:user/name@revision"; None if it is not from the Hub."""
    found = re.fullmatch(r"hf[_-]hub:([^@]*).*", name or "")
    return found and found[1]
