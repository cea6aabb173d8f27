"""The base of masks and soft labels: tensors in one file, a JSON file that says what they are, in a folder or on the Hub."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar, Self

import datasets
import torch
from safetensors import SafetensorError, safe_open

from ..hub.download import fetch_files
from ..version import __version__
from .classes import class_positions
from .files import read_json, save_tensors, sha256_of, write_json
from .identity import DatasetIdentity, find_columns, read_labels

Tensors = dict[str, torch.Tensor]
Facts = dict[str, Any]
# Type and largest shape of every tensor.
Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]
# As the header of a safetensors file names them.
_DTYPES = {"U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64}
_DTYPES |= {"F32": torch.float32, "F64": torch.float64}
# Characters that drive a terminal, as JSON escapes them; newlines and tabs are fine.
_CONTROL_CHARACTERS = re.compile(r"(?<!\\)(?:\\\\)*\\(?:u00(?:[0189]|7f)|[bf])")
# In bytes; a data set of twenty thousand classes needs less than a million.
_LARGEST_CONFIG = 16 * 2**20


class Artifact(ABC):
    """Tensors about a data set that can be saved, loaded and published.

    Files may come from strangers: every part is checked, and a tensor's type and shape before its memory is taken.
    """

    NAME: ClassVar[str]  # What messages call it.
    TYPE: ClassVar[str]
    FORMAT_VERSION: ClassVar[int] = 1
    CONFIG_FILE: ClassVar[str]
    TENSOR_FILE: ClassVar[str]
    FACTS: ClassVar[tuple[str, ...]]  # Keys that the JSON file must have.
    ADVICE: ClassVar[str]  # What to do when there is none.

    dataset: DatasetIdentity
    # Class of every point, int64 [N], where the artifact holds it.
    labels: torch.Tensor | None = None

    @abstractmethod
    def tensors(self) -> Tensors:
        """Return the tensors by their names in the file."""

    @abstractmethod
    def facts(self) -> Facts:
        """Return what the JSON file holds after its header, as plain JSON values."""

    @abstractmethod
    def description(self) -> Facts:
        """Return a summary for cards and reports, as plain JSON values."""

    @classmethod
    @abstractmethod
    def layout(cls, facts: Facts, dataset: DatasetIdentity, names: Collection[str]) -> Layout:
        """Return the tensors that a file with these facts must have; `names` are those that it does have."""

    @classmethod
    @abstractmethod
    def from_parts(cls, tensors: Tensors, facts: Facts, dataset: DatasetIdentity) -> Self:
        """Build the artifact from its files; a ValueError names a part that does not fit."""

    def check_dataset(
        self,
        dataset: datasets.Dataset | DatasetIdentity,
        labels: torch.Tensor | None = None,
        *,
        image_column: str | None = None,
        label_column: str | None = None,
    ) -> None:
        """Raise a ValueError with the difference if a data set is not the one of this artifact.

        Its classes may have another order, where the data set or the artifact has the labels to compare.

        Args:
            dataset: The data set, or its identity.
            labels: With an identity: int64 [N], the class of every point.
            image_column, label_column: With a data set: None finds them by type.
        """
        if isinstance(dataset, DatasetIdentity):
            theirs = dataset
        else:
            _, label_column = find_columns(dataset, image_column, label_column)
            theirs = DatasetIdentity.of(dataset, image_column, label_column)
            labels = torch.tensor(read_labels(dataset, label_column))
        own = self.dataset
        try:
            positions = class_positions(own.class_names, theirs.class_names, self.NAME, "data set")
        except ValueError as error:
            raise ValueError(f"{self.NAME.capitalize()} not about this data set. {error}") from None
        if labels is not None or positions is None:
            theirs = theirs.with_classes(own.class_names, positions, labels)
        elif self.labels is not None:
            positions = class_positions(theirs.class_names, own.class_names, "data set", self.NAME)
            own = own.with_classes(theirs.class_names, positions, self.labels)
        if difference := own.difference(theirs):
            advice = "Load the split that it was made on, in its original order."
            raise ValueError(f"{self.NAME.capitalize()} not about this data set: {difference}. {advice}")

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tensors and the JSON file into a folder, made if needed; equal artifacts give equal bytes."""
        folder = Path(folder)
        save_tensors(folder / self.TENSOR_FILE, self.tensors())
        # The JSON file comes last and holds the tensors' checksum, which proves that the two belong together.
        header = {"type": self.TYPE, "format_version": self.FORMAT_VERSION, "library_version": __version__}
        header["sha256"] = sha256_of(folder / self.TENSOR_FILE)
        write_json(folder / self.CONFIG_FILE, header | self.facts())

    @classmethod
    def from_pretrained(cls, path_or_repo: str | Path, revision: str | None = None) -> Self:
        """Load from a folder, or from a data set repository of the Hub, where only the two files are fetched.

        Args:
            path_or_repo: A local folder, or a repository id such as `"me/my-mask"`.
            revision: Branch, tag or commit of the repository.

        Raises:
            FileNotFoundError, PermissionError, ConnectionError: As `fetch_files`.
            ValueError: When the files are damaged, of another kind, or of a newer format.
        """
        name, folder = str(path_or_repo), Path(path_or_repo)
        if folder.is_file():
            raise FileNotFoundError(f"{name} is a file. Give the folder with {cls.CONFIG_FILE} and {cls.TENSOR_FILE}.")
        if folder.is_dir() and revision is not None:
            raise ValueError(f"{name} is a folder, and folders have no revisions. Leave {revision!r} out.")
        if not folder.is_dir():
            try:
                files = (cls.CONFIG_FILE, cls.TENSOR_FILE)
                folder = fetch_files(name, files, repo_type="dataset", revision=revision)
            except OSError as error:
                advice = f" {cls.ADVICE}" if isinstance(error, FileNotFoundError) else ""
                raise type(error)(f"{name} is not a folder here. {error}{advice}") from error
            except ValueError as error:
                raise FileNotFoundError(f"{name} is neither a folder nor a repository id like me/my-mask.") from error
        config, tensors = folder / cls.CONFIG_FILE, folder / cls.TENSOR_FILE
        if missing := [path.name for path in (config, tensors) if not path.is_file()]:
            raise FileNotFoundError(f"{name} holds no {cls.NAME}: {' and '.join(missing)} missing. {cls.ADVICE}")
        if (size := config.stat().st_size) > _LARGEST_CONFIG:
            raise ValueError(f"{name}/{config.name} has {size:,} bytes, more than any description needs.")
        otherwise = f"describes no {cls.NAME}. Give a folder that save_pretrained wrote."
        required = {"sha256", *cls.FACTS}
        facts = read_description(config, cls.TYPE, cls.FORMAT_VERSION, otherwise, required, f"{name}/{config.name}")
        if sha256_of(tensors) != facts["sha256"]:
            why = f"is not the file that {config.name} describes: cut short, damaged, or from elsewhere"
            raise ValueError(f"{name}/{tensors.name} {why}. Fetch both again.")
        try:
            dataset = DatasetIdentity.from_dict(facts["dataset"])
            return cls.from_parts(cls._read_tensors(tensors, facts, dataset), facts, dataset)
        except (OverflowError, RecursionError, ValueError) as error:
            raise ValueError(f"{name} holds no valid {cls.NAME}: {error} Fetch both files again.") from error

    @classmethod
    def _read_tensors(cls, path: Path, facts: Facts, dataset: DatasetIdentity) -> Tensors:
        try:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                layout = cls.layout(facts, dataset, names)
                for name in names:
                    if name not in layout:
                        raise ValueError(f"{name!r} is not one of its tensors.")
                    found, (dtype, largest) = file.get_slice(name), layout[name]
                    shape, type_ = found.get_shape(), found.get_dtype()
                    too_large = len(shape) != len(largest) or any(map(int.__gt__, shape, largest))
                    if _DTYPES.get(type_) != dtype or too_large:
                        expected = f"[up to {', '.join(map(str, largest))}] {dtype}"
                        raise ValueError(f"{name} is {list(shape)} {type_} instead of {expected}.")
                if missing := [name for name in layout if name not in names]:
                    raise ValueError(f"It lacks {', '.join(missing[:5])}.")
                return {name: file.get_tensor(name) for name in names}
        except SafetensorError as error:
            raise ValueError(f"{path.name} is not a whole safetensors file ({error}).") from error


def read_description(
    path: str | Path, type_: str, latest: int, otherwise: str, required: Collection[str], name: str
) -> Facts:
    """Read a JSON file of a type and a format version up to `latest`, which has the `required` keys.

    Errors call the file `name`; `otherwise` ends the error for another type.
    """
    description = read_json(path, name)
    if not isinstance(description, dict) or description.get("type") != type_:
        raise ValueError(f"{name} {otherwise}")
    try:
        text = json.dumps(description)
    except RecursionError as error:
        raise ValueError(f"{name} is nested too deeply.") from error
    if _CONTROL_CHARACTERS.search(text):
        raise ValueError(f"{name} holds control characters, which are not text. Fetch it again, or leave it alone.")
    version = description.get("format_version")
    if isinstance(version, int) and version > latest:
        writer = description.get("library_version")
        written = f", written by hf_kcd {writer}" if writer else ""
        raise ValueError(f"{name} has format version {version}{written}; this hf_kcd reads {latest}. Upgrade hf_kcd.")
    missing = sorted(set(required) - set(description))
    if version != latest or missing:
        lacks = ", ".join(missing) or "nothing"
        raise ValueError(f"{name} is damaged: format version {version!r}, missing {lacks}. Make or fetch it again.")
    return description
