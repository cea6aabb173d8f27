"""Images as people have them: every mode and range becomes the right RGB or is refused by name, and sizes are counted."""

import io
import re
from dataclasses import replace

import datasets
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torchvision.transforms import functional
from transformers.models.timm_wrapper import TimmWrapperImageProcessor

from hf_kcd.data import CIFAR_PREPROCESSING, IMAGENET_PREPROCESSING, KnowledgeDataset, Preprocessing
from hf_kcd.data.conversion import to_rgb

STILL = Preprocessing((0.0,) * 3, (1.0,) * 3, 4, "none")
# 16 levels of a 4 x 4 image, from black to white.
LEVELS = np.linspace(0, 1, 16).reshape(4, 4)
RAMP = np.round(255 * LEVELS)


def _encoded(image: Image.Image, kind: str = "PNG", **options) -> dict:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return {"bytes": file.getvalue(), "path": f"folder/image.{kind.lower()}"}


def _plain(color, mode: str, **info) -> Image.Image:
    image = Image.new(mode, (4, 4), color)
    image.info.update(info)
    return image


def _palette() -> Image.Image:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    return image


def _checkered(alpha: int, color: int = 0, mode: str = "RGBA") -> Image.Image:
    """A color on a transparent background."""
    image = Image.new("RGBA", (4, 4), (color, color, color, 0))
    image.paste((color, color, color, alpha), (0, 0, 2, 4))
    return image.convert(mode)


HALF = 255 - 128  # Black that covers 128 / 255 of white.
SHADES = {
    "uint16": (np.round(65535 * LEVELS).astype(np.uint16), RAMP),
    "uint16 in steps of 257": (np.array([[0, 257, 258, 65535]] * 4, np.uint16), np.array([[0, 1, 1, 255]] * 4)),
    "uint16, rounded": (np.array([[128, 129, 385, 386]] * 4, np.uint16), np.array([[0, 1, 1, 2]] * 4)),
    "16-bit PNG": (_encoded(Image.fromarray(np.round(65535 * LEVELS).astype(np.uint16))), RAMP),
    "int32 of 8 bits": (RAMP.astype(np.int32), RAMP),
    "float32 in 0..1": (LEVELS.astype(np.float32), RAMP),
    "float64 in 0..1": (LEVELS, RAMP),
    "float32 in 0..255": (RAMP.astype(np.float32), RAMP),
    "bool": (LEVELS > 0.5, 255.0 * (LEVELS > 0.5)),
    "L": (RAMP.astype(np.uint8), RAMP),
    "L with a transparent level": (_encoded(_plain(7, "L"), transparency=7), np.full((4, 4), 255)),
    "L with another transparent level": (_encoded(_plain(7, "L"), transparency=8), np.full((4, 4), 7)),
    "black on transparent": (_checkered(255), np.array([[0, 0, 255, 255]] * 4)),
    "black on transparent, half": (_checkered(128), np.array([[HALF, HALF, 255, 255]] * 4)),
    "black on transparent, gray": (_checkered(128, mode="LA"), np.array([[HALF, HALF, 255, 255]] * 4)),
    "opaque": (_plain((7, 7, 7, 255), "RGBA"), np.full((4, 4), 7)),
    "all transparent": (_plain((7, 7, 7, 0), "RGBA"), np.full((4, 4), 255)),
}


@pytest.mark.parametrize("kind", SHADES)
@pytest.mark.parametrize("memory_budget", [2**30, 0], ids=["in memory", "decoded each time"])
def test_gray_of_every_mode_has_its_right_shade(make_dataset, kind, memory_budget):
    image, expected = SHADES[kind]
    data = KnowledgeDataset(make_dataset([image]), STILL, training=False, memory_budget=memory_budget)
    assert np.array_equal(data.image(0), np.repeat(expected[..., None], 3, axis=2))
    np.testing.assert_allclose(data[0]["pixel_values"], np.repeat(expected[None] / 255, 3, axis=0), atol=1e-6)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (_encoded(_palette()), (10, 20, 30)),
        (_encoded(_palette(), transparency=1), (255, 255, 255)),
        (_encoded(_palette(), "GIF", transparency=1), (255, 255, 255)),
        (_encoded(_plain((10, 20, 30), "RGB"), transparency=(10, 20, 30)), (255, 255, 255)),
        (_encoded(_plain((0, 0, 0, 0), "CMYK"), "TIFF"), (255, 255, 255)),
        (_encoded(_plain((255, 128, 128), "LAB"), "TIFF"), (255, 255, 255)),  # L* = 100, a* = b* = 0
        (_encoded(_plain((10, 20, 30, 51), "RGBA"), "WEBP", lossless=True), (206, 208, 210)),  # 255 - 0.2 * (255 - 10)
    ],
    ids=["palette", "transparent palette", "GIF", "transparent RGB", "CMYK", "LAB", "WebP"],
)
def test_colors_of_every_mode(make_dataset, image, expected):
    data = KnowledgeDataset(make_dataset([image]), STILL)
    # A color management of L*a*b* rounds.
    np.testing.assert_allclose(data.image(0)[0, 0], expected, atol=1)


def test_modes_that_only_a_decoder_or_an_older_pillow_makes():
    sixteen = Image.fromarray(np.array([[0, 257, 32896, 65535]], np.int32))
    assert sixteen.mode == "I"
    sixteen.format = "PNG"  # as Pillow before 11.3 read it
    assert np.asarray(to_rgb(sixteen))[0, :, 0].tolist() == [0, 1, 128, 255]
    big_endian = Image.frombytes("I;16B", (2, 1), bytes([1, 1, 255, 255]))
    assert np.asarray(to_rgb(big_endian))[0, :, 0].tolist() == [1, 255]
    for mode in ("La", "RGBa"):
        assert (
            np.asarray(to_rgb(_checkered(128).convert("LA" if mode == "La" else "RGBA").convert(mode)))[0, 0, 0]
            == HALF
        )


def test_what_has_no_known_range_is_refused_by_point_and_mode(make_dataset):
    white = Image.new("RGBA", (4, 4), (255, 255, 255, 0))
    white.paste((255, 255, 255, 255), (0, 0, 2, 2))
    for image, message in (
        (np.round(100_000 * LEVELS).astype(np.int32), "mode I holds values from 0 to 100000, and only 0 to 255"),
        (np.round(255 * LEVELS - 3).astype(np.int32), "mode I holds values from -3 to 252"),
        ((300 * LEVELS).astype(np.float32), "mode F holds values from 0 to 300, and only 0 to 1 or 0 to 255"),
        ((2 * LEVELS - 1).astype(np.float32), "mode F holds values from -1 to 1"),
        (np.where(LEVELS == 0, np.nan, LEVELS).astype(np.float32), "mode F holds values from nan"),
        (RAMP.astype(np.uint16), "mode I;16 holds values from 0 to 255, nearly black where 65535 is white"),
        (white, "mode RGBA has white on a transparent background"),
    ):
        dataset = make_dataset([np.zeros((4, 4, 3), np.uint8), image])
        with pytest.raises(ValueError, match=rf"point 1 .*{re.escape(message)}"):
            KnowledgeDataset(dataset, STILL)


@pytest.mark.parametrize("memory_budget", [2**30, 0], ids=["in memory", "decoded each time"])
def test_twelve_bits_in_sixteen_are_nearly_black_and_said_to_be(make_dataset, memory_budget, caplog):
    dark, bright = (np.round(white * LEVELS).astype(np.uint16) for white in (4095, 65535))
    KnowledgeDataset(make_dataset([dark, bright]), STILL, memory_budget=memory_budget)
    assert not caplog.records
    data = KnowledgeDataset(make_dataset([dark, dark]), STILL, memory_budget=memory_budget)
    assert data.image(0).max() == 16 and "nearly black: 16 of 255" in caplog.text
    caplog.clear()
    KnowledgeDataset(make_dataset([dark * 16]), STILL, memory_budget=memory_budget)
    assert not caplog.records


def test_a_column_that_does_not_decode_or_has_a_mode_of_its_own_is_read(make_dataset):
    sixteen = np.round(65535 * LEVELS).astype(np.uint16)
    dataset = make_dataset([sixteen])
    for feature in (datasets.Image(decode=False), datasets.Image(mode="RGB"), datasets.Image(mode="L")):
        found = KnowledgeDataset(dataset.cast_column("img", feature), STILL).image(0)
        assert np.array_equal(found, np.repeat(RAMP[..., None], 3, axis=2))
    red = make_dataset([Image.new("RGB", (4, 4), (200, 0, 0))]).cast_column("img", datasets.Image(mode="L"))
    assert KnowledgeDataset(red, STILL).image(0)[0, 0].tolist() == [60, 60, 60]  # 0.299 * 200


@pytest.mark.parametrize("training", [True, False])
def test_a_transform_that_would_never_be_called_is_refused(make_dataset, pixels, training):
    dataset = make_dataset(pixels)
    dataset.set_transform(lambda rows: rows)
    for changed in (dataset, make_dataset(pixels).with_transform(lambda rows: rows)):
        with pytest.raises(ValueError, match=r"with_transform or set_transform.*dataset.map.*with_format\(None\)"):
            KnowledgeDataset(changed, training=training)


def test_a_few_images_of_another_size_are_resized_to_the_others(make_dataset):
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(39)]
    odd = Image.fromarray(rng.integers(0, 256, (5, 9, 3), dtype=np.uint8)).resize((96, 64))
    data = KnowledgeDataset(make_dataset([*images[:20], odd, *images[20:]]))
    assert data.preprocessing == replace(CIFAR_PREPROCESSING, fit=True) and data.in_memory
    assert np.array_equal(data.image(20), np.asarray(functional.center_crop(functional.resize(odd, [32]), [32])))
    assert np.array_equal(data.image(19), np.asarray(images[19]))
    said = data.describe()
    assert said.startswith(
        "40 images in RGB (39 of 32 x 32, 1 of 64 x 96), shown at 32 x 32, others than 32 x 32 resized"
    )
    # The odd ones are shown to a smaller network as timm does, in one step.
    for preprocessing in (data.preprocessing.for_network(16), replace(data.preprocessing, size=16)):
        shown = KnowledgeDataset(make_dataset([odd, *images]), preprocessing, training=False)[0]["pixel_values"]
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
        once = functional.pil_to_tensor(functional.center_crop(functional.resize(odd, [16]), [16]))
        torch.testing.assert_close(shown, (once / 255 - mean) / std, atol=1e-5, rtol=0)


def test_all_sizes_count_not_a_sample(make_dataset):
    # Every second image, so that up to 64 evenly spaced ones of 130 could all have one size.
    images = [np.zeros((6 + 2 * (index % 2), 6, 3), np.uint8) for index in range(130)]
    data = KnowledgeDataset(make_dataset(images).select(range(130)))
    assert data.preprocessing == IMAGENET_PREPROCESSING and data.found.sizes == {(6, 6): 65, (8, 6): 65}


def test_what_was_found_is_said_with_how_it_is_shown(make_dataset):
    images = [np.zeros((20, 30), np.uint8), np.zeros((30, 20, 4), np.uint8), _encoded(_palette(), transparency=1)]
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera that was turned: 20 x 30 on disk, 30 x 20 to look at
    images.append(_encoded(Image.new("RGB", (30, 20)), "JPEG", exif=exif))
    data = KnowledgeDataset(make_dataset(images))
    modes, sizes = "L (1), RGBA (1), P with transparency (1), RGB (1)", "2 of 30 x 20, 1 of 20 x 30, 1 of 4 x 4"
    prepared = "shown at 224 x 224, a random part of 8 to 100 %, mirrored half of the time"
    normalized = "mean 0.485 0.456 0.406, std 0.229 0.224 0.225"
    assert data.describe() == f"4 images in {modes} ({sizes}), {prepared}; {normalized}."
    assert data.image(3).shape == (30, 20, 3)
    evaluation = KnowledgeDataset(make_dataset(images), training=False)
    assert evaluation.describe() == f"4 images in {modes} ({sizes}), shown at 224 x 224; {normalized}."
    large = KnowledgeDataset(make_dataset([np.zeros((512, 512, 3), np.uint8)]))
    assert "shown at 512 x 512" in large.describe() and "image_size makes large images smaller" in large.describe()


@pytest.mark.parametrize("memory_budget", [2**30, 0], ids=["in memory", "decoded each time"])
def test_a_broken_file_is_named(tmp_path, memory_budget):
    rng = np.random.default_rng(0)
    for index in range(300):
        (tmp_path / f"{index % 2}").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(
            tmp_path / f"{index % 2}" / f"{index:03}.png"
        )
    dataset = datasets.load_dataset(str(tmp_path), split="train")
    broken = 6  # The identity of the data set does not look at it.
    path = dataset.cast_column("image", datasets.Image(decode=False))[broken]["image"]["path"]
    with open(path, "r+b") as file:
        file.truncate(150)
    message = rf"point {broken} \({re.escape(path)}\) cannot be decoded .*Replace it and go on; or remove it"
    with pytest.raises(ValueError, match=message):
        KnowledgeDataset(dataset, memory_budget=memory_budget).__getitems__([5, broken])
    with open(path, "r+b") as file:
        file.truncate(0)  # Not even a header: found before the training.
    with pytest.raises(ValueError, match=message):
        KnowledgeDataset(dataset, memory_budget=0)


@pytest.mark.parametrize("size", [32, 60, 96, 160, 224, 256, 384])
def test_evaluation_timm_and_transformers_see_the_same_pixels(make_dataset, many_sizes, size):
    square = Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 50, 3), dtype=np.uint8))
    images = [*many_sizes[::4], square.resize((100, 100)), square]
    network = timm.create_model("test_resnet", num_classes=3)
    # What a student of photographs is saved with.
    network.pretrained_cfg.update(
        input_size=(3, size, size), crop_pct=0.875, interpolation="bilinear", test_input_size=None
    )
    shown = [IMAGENET_PREPROCESSING.as_network_expects(network)]
    # A network with published weights of its own habits.
    others = timm.create_model("test_resnet", num_classes=3)
    others.pretrained_cfg.update(input_size=(3, size, size), crop_pct=0.95, interpolation="bicubic")
    for model, preprocessing in (
        (network, shown[0]),
        (network, shown[0].evaluation_of(network)),
        (others, shown[0].evaluation_of(others)),
    ):
        found = KnowledgeDataset(make_dataset(images), preprocessing, training=False)
        found = found.__getitems__(range(len(images)))["pixel_values"]
        by_timm = create_transform(**resolve_data_config(model.pretrained_cfg), is_training=False)
        processor = TimmWrapperImageProcessor(model.pretrained_cfg)
        torch.testing.assert_close(found, torch.stack([by_timm(image) for image in images]), atol=1e-5, rtol=0)
        torch.testing.assert_close(found, processor(images)["pixel_values"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [24, 60, 160])
def test_images_of_one_size_are_resized_to_a_gray_level_as_timm_does(make_dataset, size):
    images = [
        Image.fromarray(values) for values in np.random.default_rng(2).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    ]
    preprocessing = replace(CIFAR_PREPROCESSING, mean=(0, 0, 0), std=(1, 1, 1)).for_network(size)
    found = KnowledgeDataset(make_dataset(images), preprocessing, training=False).__getitems__(range(4))[
        "pixel_values"
    ]
    options = {"input_size": (3, size, size), "crop_pct": 1.0, "mean": (0, 0, 0), "std": (1, 1, 1)}
    expected = torch.stack([create_transform(**options, interpolation="bilinear")(image) for image in images])
    assert (found - expected).abs().max() * 255 < 1.01


@pytest.mark.parametrize(("name", "mirrors"), [("resized_crop", False), ("resized_crop_flip", True)])
def test_a_resized_crop_is_mirrored_only_where_its_name_says_so(make_dataset, name, mirrors):
    ramp = np.tile(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], (60, 1, 3))
    data = KnowledgeDataset(make_dataset([ramp] * 40), replace(IMAGENET_PREPROCESSING, size=16, augmentation=name))
    shown = data.__getitems__(range(40))["pixel_values"]
    rising = shown[:, 0, :, -1].mean(1) > shown[:, 0, :, 0].mean(1)
    assert bool(rising.all()) != mirrors and bool(rising.any())


def test_another_augmentation_keeps_size_and_normalization_and_takes_the_same_images(make_dataset, many_sizes, pixels):
    crop = IMAGENET_PREPROCESSING.with_augmentation("crop")
    assert crop == replace(IMAGENET_PREPROCESSING, augmentation="crop", padding=28, fit=True)
    data = KnowledgeDataset(make_dataset(many_sizes), replace(crop, size=16, padding=2))
    assert data.in_memory and data[0]["pixel_values"].shape == (3, 16, 16)
    cut = replace(CIFAR_PREPROCESSING, size=12, resize=16).with_augmentation("resized_crop_flip")
    assert (cut.size, cut.resize, cut.padding) == (16, None, 0)
    assert CIFAR_PREPROCESSING.with_augmentation("crop") == replace(CIFAR_PREPROCESSING, augmentation="crop")
    still = KnowledgeDataset(make_dataset(pixels), replace(CIFAR_PREPROCESSING, size=12).with_augmentation("none"))
    evaluated = KnowledgeDataset(make_dataset(pixels), still.preprocessing, training=False)
    assert torch.equal(still[3]["pixel_values"], evaluated[3]["pixel_values"])
    with pytest.raises(ValueError, match="Unknown augmentation 'flip'"):
        crop.with_augmentation("flip")


def test_a_gray_network_is_refused_by_name():
    network = timm.create_model("cifar_resnet8", in_chans=1, num_classes=3)
    for prepare in (CIFAR_PREPROCESSING.as_network_expects, CIFAR_PREPROCESSING.evaluation_of):
        with pytest.raises(ValueError, match="cifar_resnet8 takes images of 1 channel, .*in_chans=3"):
            prepare(network)
