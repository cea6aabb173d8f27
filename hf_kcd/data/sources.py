"""Where data comes from: embedded digits, CIFAR-100, ImageNet, a folder, or an image classification set of the Hub."""

import re
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np

from ..artifacts.identity import find_columns
from ..errors import unknown_name
from ..hub.names import DATASET_REPOSITORIES, REPOSITORY_ID
from .preprocessing import (
    CIFAR_PREPROCESSING,
    DIGITS_PREPROCESSING,
    IMAGENET_PREPROCESSING,
    Preprocessing,
    guess_preprocessing,
)

_RECIPES = {"cifar100": CIFAR_PREPROCESSING, "imagenet": IMAGENET_PREPROCESSING}
_NAMES = ("digits", *_RECIPES)
_EVAL_SPLITS = ("test", "validation", "valid", "val", "eval")
_DIGITS_EVAL_EVERY = 6


@dataclass(frozen=True)
class ImageData:
    """What a name stands for.

    Args:
        train: The training split.
        eval: The split to evaluate on, None where there is none.
        preprocessing: How its images are prepared.
        name: The name it was loaded under.
    """

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
        name: `"digits"` (1,797 images of 8 x 8, embedded in scikit-learn, no network), `"cifar100"`, `"imagenet"`, a
            folder (images in folders by class, Parquet files, or `save_to_disk`), or a Hub id such as `"user/name"`.
        data_dir: A folder with the data, so that nothing is fetched; `name` then only chooses the preprocessing.
        train_split: Name of the training split, `"train"` without it.
        eval_split: Name of the split to evaluate on; without it the first that exists of test, validation, valid, val,
            eval (ImageNet, whose test split has no labels: validation).
        image_column: Name of the image column, found by type without it.
        label_column: Name of the label column, found by type without it.

    Returns:
        The splits and the preprocessing.

    Raises:
        ValueError: For an unknown name, split or column.
        FileNotFoundError: When a folder does not exist.
        ConnectionError: When the Hub cannot hand it out.
    """
    if name == "digits":
        if data_dir is not None:
            raise ValueError("The digits are embedded in scikit-learn: leave data_dir out.")
        splits, preprocessing = _digits(), DIGITS_PREPROCESSING
    else:
        preprocessing = _RECIPES.get(name)
        splits = _load_splits(DATASET_REPOSITORIES.get(name, name), data_dir)
    train = _split(splits, train_split or "train", name)
    eval_split = eval_split or _find_eval_split(splits, name)
    evaluation = None if eval_split is None else _split(splits, eval_split, name)
    image_column, _ = find_columns(train, image_column, label_column)
    return ImageData(train, evaluation, preprocessing or guess_preprocessing(train, image_column), name)


def first_points(dataset: datasets.Dataset, num_points: int, label_column: str | None = None) -> datasets.Dataset:
    """Take the first points of the order that goes through the classes in turn, in the data set's own order.

    Args:
        dataset: A data set with a label column.
        num_points: How many to take.
        label_column: Name of the label column, found by type without it.

    Raises:
        ValueError: When there are not as many.
    """
    if num_points > len(dataset):
        raise ValueError(
            f"train_points is {num_points}, but there are {len(dataset)} points: give fewer, or leave it out."
        )
    labels = np.asarray(dataset.with_format("numpy")[find_columns(dataset, None, label_column)[1]])
    turn = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = labels == label
        turn[members] = np.arange(members.sum())
    return dataset.select(np.sort(np.lexsort((labels, turn))[:num_points]))


def name_of(dataset: datasets.Dataset) -> str:
    """Name a data set by what it knows of itself: the Hub's id that it was loaded by, or the name of its builder."""
    for file in dataset.cache_files:
        # datasets writes capitals as underscores there, so a name with one may be another.
        found = re.search(r"/([^/]+)___([^/_]+)/", Path(file["filename"]).as_posix())
        if found:
            return f"{found[1]}/{found[2]}"
    return dataset.info.dataset_name or "images"


def _digits() -> datasets.DatasetDict:
    # Imported here: scikit-learn takes a second, and only the digits need it.
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Every sixth image of each class, in the order of the file: stratified and the same for everybody.
    rank = np.zeros(len(digits.target), dtype=np.int64)
    for label in range(10):
        members = digits.target == label
        rank[members] = np.arange(members.sum())
    held_out = rank % _DIGITS_EVAL_EVERY == _DIGITS_EVAL_EVERY - 1
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(digit) for digit in range(10)])}
    )
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict({"image": list(pixels[rows]), "label": digits.target[rows]}, features)
            for split, rows in (("train", ~held_out), ("test", held_out))
        }
    )


def _load_splits(name: str, data_dir: str | Path | None) -> datasets.DatasetDict:
    if data_dir is not None or Path(name).is_dir():
        return _load_folder(Path(data_dir or name))
    if "/" not in name:
        raise unknown_name("data set", name, (*_NAMES, "a folder", "a Hub id user/name"))
    if not REPOSITORY_ID.fullmatch(name):
        raise FileNotFoundError(f"{name} is no folder. Check the path, or give a Hub id such as user/name.")
    try:
        return datasets.load_dataset(name)
    # What a missing network, set or permission raises differs between datasets, huggingface_hub, httpx and fsspec.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConnectionError(
            f"The Hub did not hand out the data set {name} ({reason}). Check name, network and login, or download it "
            "elsewhere and give its folder as data_dir."
        ) from None


def _load_folder(folder: Path) -> datasets.DatasetDict:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is no folder. Give the one that holds the images, Parquet files or saved data set."
        )
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        loaded = datasets.load_from_disk(str(folder))
        return loaded if isinstance(loaded, datasets.DatasetDict) else datasets.DatasetDict(train=loaded)
    try:
        return datasets.load_dataset(str(folder))
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{folder} cannot be read as a data set ({reason}). It should hold folders of images by class "
            "(train/cat/1.png), Parquet files, or what save_to_disk writes."
        ) from error


def _split(splits: datasets.DatasetDict, split: str, name: str) -> datasets.Dataset:
    if split not in splits:
        raise ValueError(
            f"{name} has no split {split!r}. It has: {', '.join(splits)}. Give one as train_split or eval_split."
        )
    return splits[split]


def _find_eval_split(splits: datasets.DatasetDict, name: str) -> str | None:
    candidates = [split for split in _EVAL_SPLITS if split in splits and not (name == "imagenet" and split == "test")]
    return candidates[0] if candidates else None
