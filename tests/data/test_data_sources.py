"""Every way to name a data set loads it, and every wrong way ends in a line that says what to do."""

import traceback
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from hf_kcd.data import KnowledgeDataset, first_points, load_image_data
from hf_kcd.data.preprocessing import CIFAR_PREPROCESSING, DIGITS_PREPROCESSING, IMAGENET_PREPROCESSING


@pytest.fixture(scope="module")
def digits():
    return load_image_data("digits")


def _write_images(folder: Path, splits: tuple[str, ...], sides: tuple[int, ...]) -> None:
    for split in splits:
        for kind in ("cat", "dog"):
            (folder / split / kind).mkdir(parents=True)
            for index, side in enumerate(sides):
                Image.new("RGB", (side, side), (index, 20, 30)).save(folder / split / kind / f"{index}.png")


def test_digits_are_those_of_scikit_learn_split_by_class(digits):
    train, evaluation = (np.bincount(split["label"]) for split in (digits.train, digits.eval))
    # 1,797 digits, about 180 of each: every sixth of a class is held out.
    assert train.sum() + evaluation.sum() == 1797 and digits.name == "digits"
    assert np.array_equal(evaluation, (train + evaluation) // 6)
    assert load_image_data("digits").eval["label"][:] == digits.eval["label"][:]

    known = load_digits()
    first, held_out = (np.round(np.asarray(split[0]["image"]) / 255 * 16) for split in (digits.train, digits.eval))
    sixth = np.nonzero(known.target == digits.eval[0]["label"])[0][5]
    assert np.array_equal(first, known.images[0]) and np.array_equal(held_out, known.images[sixth])
    assert digits.preprocessing == DIGITS_PREPROCESSING
    knowledge = KnowledgeDataset(digits.train, digits.preprocessing, training=False)
    images = knowledge.__getitems__(range(len(knowledge)))["pixel_values"]
    assert images.shape[1:] == (3, 8, 8)
    assert abs(float(images.mean())) < 1e-3 and abs(float(images.std()) - 1) < 1e-3


def test_first_points_take_the_classes_in_turn(digits):
    labels = np.array(digits.train["label"])
    chosen = first_points(digits.train, 95)
    # 95 of ten classes: ten of five classes, nine of the others, and always the first of each class.
    counts = np.bincount(chosen["label"], minlength=10)
    assert sorted(counts) == [9] * 5 + [10] * 5
    expected = sorted(row for label in range(10) for row in np.flatnonzero(labels == label)[: counts[label]])
    assert chosen["image"] == digits.train.select(expected)["image"]
    with pytest.raises(ValueError, match="1501"):
        first_points(digits.train, 1502)


def test_cifar100_is_read_from_a_folder_with_its_fine_labels(cifar100_folder):
    data = load_image_data("cifar100", cifar100_folder)
    assert (len(data.train), len(data.eval)) == (50_000, 10_000) and data.preprocessing == CIFAR_PREPROCESSING
    tiny = KnowledgeDataset(data.train.select(range(10)), data.preprocessing)
    assert tiny.num_classes == 100 and tiny.class_names[19] == "cattle"


@pytest.mark.parametrize(("sides", "size"), [((40, 40), 40), ((40, 50), 224)])
def test_a_folder_of_images_gets_the_preprocessing_of_its_sizes(tmp_path, sides, size):
    _write_images(tmp_path, ("train", "val", "test"), sides)
    # The test split of ImageNet has no labels.
    data = load_image_data("imagenet", tmp_path)
    assert data.preprocessing == IMAGENET_PREPROCESSING and len(data.train) == len(data.eval) == 4
    assert data.eval.split == "validation"
    data = load_image_data(str(tmp_path))
    assert data.preprocessing.size == size and data.preprocessing.any_size == (size == 224)
    assert data.preprocessing.padding == (5 if size == 40 else 0)
    knowledge = KnowledgeDataset(data.train, data.preprocessing)
    assert knowledge.class_names == ["cat", "dog"] and knowledge[0]["pixel_values"].shape == (3, size, size)


def test_saved_and_parquet_folders_are_read(tmp_path, make_dataset, pixels):
    dataset = make_dataset(pixels)
    datasets.DatasetDict(train=dataset, valid=dataset.select(range(5))).save_to_disk(tmp_path / "dict")
    dataset.save_to_disk(tmp_path / "one")
    (tmp_path / "parquet").mkdir()
    dataset.to_parquet(tmp_path / "parquet" / "train-00000-of-00001.parquet")
    assert len(load_image_data(str(tmp_path / "dict")).eval) == 5
    for kind in ("one", "parquet"):
        data = load_image_data("my data", tmp_path / kind)
        assert len(data.train) == 40 and data.eval is None and data.preprocessing.size == 12 and data.name == "my data"
    assert len(load_image_data(str(tmp_path / "dict"), train_split="valid", eval_split="train").train) == 5


def test_wrong_names_folders_and_splits_are_named(tmp_path, make_dataset, pixels):
    make_dataset(pixels).remove_columns("fine_label").save_to_disk(tmp_path / "no labels")
    (tmp_path / "empty").mkdir()
    for arguments, options, error, message in (
        (("cifar10",), {}, ValueError, "Unknown data set 'cifar10'. Did you mean 'cifar100'"),
        (("cifar100", tmp_path / "nowhere"), {}, FileNotFoundError, "not a folder"),
        ((str(tmp_path / "nowhere"),), {}, FileNotFoundError, "not a folder.*Hub id"),
        ((str(tmp_path / "empty"),), {}, ValueError, "cannot be read.*Parquet"),
        (("digits", tmp_path), {}, ValueError, "leave data_dir out"),
        (("digits",), {"eval_split": "validation"}, ValueError, "no split 'validation'. It has: train, test"),
        ((str(tmp_path / "no labels"),), {}, ValueError, "no label column"),
        (("digits",), {"label_column": "digit"}, ValueError, "label column 'digit' is not a ClassLabel"),
        (("digits",), {"image_column": "scan"}, ValueError, "image column 'scan' is not a Image"),
    ):
        with pytest.raises(error, match=message):
            load_image_data(*arguments, **options)


@pytest.mark.parametrize(
    ("name", "repository"),
    [("cifar100", "uoft-cs/cifar100"), ("imagenet", "ILSVRC/imagenet-1k"), ("me/cats", "me/cats")],
)
def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch, name, repository):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=f"{repository} .*data_dir") as caught:
        load_image_data(name)
    assert "\n" not in str(caught.value)
    # The chain of errors below it is not shown.
    assert len(traceback.format_exception(caught.value)) < 12
