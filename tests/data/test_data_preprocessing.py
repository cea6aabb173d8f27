"""A preprocessing fits the images or the network, resizes as Pillow does, and still answers to its old names."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import hf_kcd.data
from hf_kcd.data import CIFAR_PREPROCESSING, IMAGENET_PREPROCESSING, ImageData, KnowledgeDataset

CROP = replace(CIFAR_PREPROCESSING, size=12, padding=2)
CUT = replace(IMAGENET_PREPROCESSING, size=16)


def test_a_preprocessing_that_makes_no_sense_is_refused():
    for name, value, message in (
        ("augmentation", "crop_flp", "crop_flip"),
        ("size", 0, "size is 0"),
        ("resize", 0, "resize is 0"),
        ("padding", -1, "padding is -1"),
        ("std", (0.2, 0.0, 0.2), "above 0"),
        ("mean", (0.5,), "give three"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(CIFAR_PREPROCESSING, **{name: value})


def test_the_default_preprocessing_fits_the_images(make_dataset, pixels):
    squares = KnowledgeDataset(make_dataset(pixels)).preprocessing
    assert (squares.size, squares.augmentation, squares.padding) == (12, "crop_flip", 1)
    for sizes in ([(12, 12), (13, 12)], [(12, 13)]):
        images = [np.zeros((*size, 3), np.uint8) for size in sizes]
        assert KnowledgeDataset(make_dataset(images)).preprocessing == IMAGENET_PREPROCESSING


def test_a_network_decides_size_and_normalization():
    assert CROP.for_network(12) == CROP == CROP.for_network()
    # Images of any size are cut at the network's size at once.
    assert CUT.for_network(24) == replace(CUT, size=24)
    config = {"input_size": (3, 24, 24), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    network = timm.create_model("cifar_resnet8", pretrained_cfg_overlay=config)
    assert CROP.as_network_expects(network) == replace(CROP, mean=config["mean"], std=config["std"], resize=24)


@pytest.mark.parametrize("memory_budget", [2**30, 0], ids=["in memory", "decoded each time"])
@pytest.mark.parametrize("size", [31, 5])
def test_images_are_resized_for_a_network_of_another_size(make_dataset, pixels, memory_budget, size):
    preprocessing = CROP.for_network(size, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert preprocessing.network_size == size and preprocessing.size == 12
    data = KnowledgeDataset(make_dataset(pixels), preprocessing, training=False, memory_budget=memory_budget)
    found = data.__getitems__(range(40))["pixel_values"]
    # Pillow's bilinear filter on float pixels, which reduces with antialiasing.
    planes = (pixels / 255 - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    planes = planes.transpose(0, 3, 1, 2).reshape(-1, 12, 12).astype(np.float32)
    expected = [np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR)) for plane in planes]
    np.testing.assert_allclose(found, np.stack(expected).reshape(40, 3, size, size), atol=2e-5)


def test_resizing_comes_after_the_augmentation_and_is_the_same_in_any_batch(make_dataset, pixels):
    data, small = (KnowledgeDataset(make_dataset(pixels), CROP.for_network(size)) for size in (24, 12))
    whole, unresized = (each.__getitems__(range(40))["pixel_values"] for each in (data, small))
    torch.testing.assert_close(whole, torch.nn.functional.interpolate(unresized, scale_factor=2, mode="bilinear"))
    for rows in ([3], [39, 3, 8]):
        assert torch.equal(data.__getitems__(rows)["pixel_values"], whole[rows])


def test_old_names_work_and_name_the_new_ones(make_dataset, pixels):
    names = {f"{data}_RECIPE": f"{data}_PREPROCESSING" for data in ("CIFAR", "DIGITS", "IMAGENET")}
    for old, new in {**names, "ImageRecipe": "Preprocessing", "guess_recipe": "guess_preprocessing"}.items():
        with pytest.warns(FutureWarning, match=f"{old} is now {new}"):
            assert getattr(hf_kcd.data, old) is getattr(hf_kcd.data, new)
    with pytest.warns(FutureWarning, match="recipe= is now preprocessing="):
        data = KnowledgeDataset(make_dataset(pixels), recipe=CROP)
    for owner in (data, ImageData(data, None, CROP, "pixels")):
        with pytest.warns(FutureWarning, match=".recipe is now .preprocessing"):
            assert owner.recipe == CROP
    with pytest.raises(AttributeError, match="no attribute 'Recipe'"):
        hf_kcd.data.Recipe  # noqa: B018
