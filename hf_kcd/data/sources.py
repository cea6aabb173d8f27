"""Where data comes from: the embedded digits, CIFAR-100, ImageNet, a folder, or a data set of the Hub."""

import re
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np

from ..artifacts.identity import find_columns, read_labels
from ..errors import unknown_name, warn_of_folder
from ..hub.names import DATASET_REPOSITORIES, REPOSITORY_ID
from .preprocessing import BY_DATA, Preprocessing, guess_preprocessing
from .renamed import recipe_attribute

_EVAL_SPLITS = ("test", "validation", "valid", "val", "eval")
_DIGITS_EVAL_EVERY = 6


@dataclass(frozen=True)
class ImageData:
    """A data set loaded by `name`: its training split, the split to evaluate on if there is one, and its preprocessing."""

    recipe = recipe_attribute

    train: datasets.Dataset
    eval: datasets.Dataset | None
    preprocessing: Preprocessing
    name: str


def load_image_data(
    name: str,
    data_dir: str | Path | None = None,
    *,
    train_split: str | None = None,
    eval_split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> ImageData:
    """Load an image classification data set with the preprocessing that fits it.

    Args:
        name: `"digits"` (1,797 images of 8 x 8, embedded in scikit-learn), `"cifar100"`, `"imagenet"`, a folder (images
            in folders by class, Parquet files, or `save_to_disk`), or a Hub id such as `"user/name"`. `"./digits"` is a folder.
        data_dir: A folder with the data, so that nothing is fetched; `name` then only chooses the preprocessing.
        train_split: None means `"train"`.
        eval_split: None takes the first of test, validation, valid, val and eval (validation for ImageNet, whose test
            split has no labels).
        image_column, label_column: None finds them by type.

    Raises:
        ValueError: For an unknown name, split or column.
        FileNotFoundError: When a folder does not exist.
        ConnectionError: When the Hub cannot be read.
    """
    if name == "digits" and data_dir is not None:
        raise ValueError("The digits are embedded in scikit-learn: leave data_dir out.")
    if name in BY_DATA and data_dir is None:
        warn_of_folder("data set", name)
    splits = _digits() if name == "digits" else _load_splits(DATASET_REPOSITORIES.get(name, name), data_dir)
    train = _split(splits, train_split or "train", name)
    eval_split = eval_split or _find_eval_split(splits, name)
    evaluation = None if eval_split is None else _split(splits, eval_split, name)
    image_column, _ = find_columns(train, image_column, label_column)
    return ImageData(train, evaluation, BY_DATA.get(name) or guess_preprocessing(train, image_column), name)


def name_of(dataset: datasets.Dataset) -> str:
    """Return the Hub id that a data set was loaded by, or the name of its builder."""
    for file in dataset.cache_files:
        # datasets writes capitals as underscores there, so an underscore is ambiguous.
        found = re.search(r"/([^/]+)___([^/_]+)/", Path(file["filename"]).as_posix())
        if found:
            return f"{found[1]}/{found[2]}"
    return dataset.info.dataset_name or "images"


def first_points(dataset: datasets.Dataset, num_points: int, label_column: str | None = None) -> datasets.Dataset:
    """Take the first point of every class, then the second, and so on, and keep their order; None finds the column."""
    if num_points > len(dataset):
        raise ValueError(f"train_points is {num_points}, but there are only {len(dataset)} points: give fewer.")
    labels = read_labels(dataset, label_column)
    return dataset.select(np.sort(np.lexsort((labels, _rank_in_class(labels)))[:num_points]))


def _rank_in_class(labels: np.ndarray) -> np.ndarray:
    """How many earlier points have the same label."""
    rank = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = labels == label
        rank[members] = np.arange(members.sum())
    return rank


def _digits() -> datasets.DatasetDict:
    # Imported here: scikit-learn takes a second, and only the digits need it.
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Every sixth image of each class is held out: stratified, and the same for everybody.
    held_out = _rank_in_class(digits.target) % _DIGITS_EVAL_EVERY == _DIGITS_EVAL_EVERY - 1
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    names = [str(digit) for digit in range(10)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    splits = datasets.DatasetDict()
    for split, rows in (("train", ~held_out), ("test", held_out)):
        columns = {"image": list(pixels[rows]), "label": digits.target[rows]}
        splits[split] = datasets.Dataset.from_dict(columns, features)
    return splits


def _load_splits(name: str, data_dir: str | Path | None) -> datasets.DatasetDict:
    if data_dir is not None or Path(name).is_dir():
        return _load_folder(Path(data_dir or name))
    if "/" not in name:
        raise unknown_name("data set", name, (*BY_DATA, "a folder", "a Hub id user/name"))
    if not REPOSITORY_ID.fullmatch(name):
        raise FileNotFoundError(f"{name} is not a folder. Check the path, or give a Hub id such as user/name.")
    try:
        return datasets.load_dataset(name)
    # datasets, huggingface_hub, httpx and fsspec each raise their own errors for a missing network, set or permission.
    except Exception as error:
        raise ConnectionError(
            f"The data set {name} could not be loaded from the Hub ({_first_line(error)}). Check name, network and login, "
            "or download it elsewhere and give its folder as data_dir."
        ) from None


def _load_folder(folder: Path) -> datasets.DatasetDict:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is not a folder. Give the folder of the images, Parquet files or saved data set."
        )
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        loaded = datasets.load_from_disk(str(folder))
        return loaded if isinstance(loaded, datasets.DatasetDict) else datasets.DatasetDict(train=loaded)
    try:
        return datasets.load_dataset(str(folder))
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise ValueError(
            f"{folder} cannot be read as a data set ({_first_line(error)}). It should hold folders of images by class "
            "(train/cat/1.png), Parquet files, or what save_to_disk writes."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _split(splits: datasets.DatasetDict, split: str, name: str) -> datasets.Dataset:
    if split not in splits:
        raise ValueError(f"{name} has no split {split!r}. It has: {', '.join(splits)}. Give one of them.")
    return splits[split]


def _find_eval_split(splits: datasets.DatasetDict, name: str) -> str | None:
    names = _EVAL_SPLITS[1:] if name == "imagenet" else _EVAL_SPLITS
    return next((split for split in names if split in splits), None)
