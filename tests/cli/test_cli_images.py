"""Folders of images as people have them: sizes, modes, mirroring and broken files, through the command line."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from timm.data import create_transform, resolve_data_config
from tiny import QUIET

from hf_kcd import load_model
from hf_kcd.cli.recipe import read_recipe
from hf_kcd.cli.run import load_run_data, student_and_training_set

FOLDER = ["--num_train_epochs", "1", "--no_plots", "--disable_tqdm", "true", "--use_cpu", "--seed", "3"]
FOLDER += ["--per_device_train_batch_size", "8"]


def write_images(
    folder: Path, num_images: int = 40, size: int = 20, odd: dict[int, tuple[int, int]] | None = None
) -> Path:
    """A folder of two classes, half of its images for evaluation; `odd` gives some another width and height."""
    rng = np.random.default_rng(0)
    for index in range(num_images):
        image = Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))
        path = folder / ("test" if index % 4 > 1 else "train") / f"class {index % 2}" / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.resize((odd or {}).get(index, image.size)).save(path)
    return folder


def test_odd_images_do_not_change_the_size_of_a_training_and_the_run_says_what_it_found(tmp_path, hf_kcd):
    data = write_images(tmp_path / "data", odd={4: (90, 70), 6: (31, 300)})
    printed = hf_kcd("train-teacher", *FOLDER, "--data", data, "--output_dir", tmp_path / "run")
    found = "Training on 20 images in RGB (19 of 20 x 20, 1 of 70 x 90)"
    shown = "shown at 20 x 20, others than 20 x 20 resized to it and cut to their center, cut at random after 2 pixels of padding"
    line = next(line for line in printed.splitlines() if line.startswith("Training on"))
    assert line.startswith(f"{found}, {shown}, mirrored half of the time; mean 0.5071 0.4867 0.4408, std ")
    config = json.loads((tmp_path / "run" / "config.json").read_text())["pretrained_cfg"]
    assert (config["input_size"], config["crop_pct"], config["crop_mode"]) == ([3, 20, 20], 1.0, "center")
    accuracy = json.loads((tmp_path / "run" / "results.json").read_text())["accuracy"]["last"]["top1"]
    # timm, with what the run saved, gets the accuracy of the run; the odd images included.
    network = load_model(tmp_path / "run").eval()
    transform = create_transform(**resolve_data_config(network.pretrained_cfg))
    right = []
    for path in sorted((data / "test").glob("*/*.png")):
        logits = network(transform(Image.open(path))[None])
        right.append(int(logits.argmax()) == int(path.parent.name[-1]))
    assert math.isclose(100 * np.mean(right), accuracy, abs_tol=1e-6)
    assert f"top-1 {accuracy:.2f} %" in hf_kcd("evaluate", tmp_path / "run", "--data", data)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("crop", None, ("crop", 20, None, 2)),
        ("none", None, ("none", 20, None, 2)),
        ("resized_crop", None, ("resized_crop", 20, None, 0)),
        ("resized_crop_flip", 12, ("resized_crop_flip", 12, None, 0)),
        ("crop_flip", 12, ("crop_flip", 20, 12, 2)),
    ],
)
def test_the_images_augmentation_and_size_are_options_of_line_and_recipe(tmp_path, name, size, expected):
    data = write_images(tmp_path / "data")
    words = ["--data", str(data), "--image_augmentation", name, "--output_dir", str(tmp_path / "run")]
    recipe = read_recipe("distill", [*words, *([] if size is None else ["--image_size", str(size)])])
    recipe.save(tmp_path / "recipe.yaml")
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["image_augmentation"] == name
    again = read_recipe("distill", ["--config", str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path / "run")])
    for each in (recipe, again):
        _, train = student_and_training_set(each, load_run_data(each.config))
        used = train.preprocessing
        assert (used.augmentation, used.size, used.resize, used.padding) == expected
        assert train[0]["pixel_values"].shape == (3, size or 20, size or 20)


def test_images_of_many_sizes_are_cropped_at_the_size_that_was_asked_for(tmp_path, hf_kcd):
    data = write_images(tmp_path / "data", odd={index: (20 + index, 50 - index) for index in range(40)})
    words = ["--image_augmentation", "crop", "--image_size", "16", "--output_dir", tmp_path / "run"]
    printed = hf_kcd("train-teacher", *FOLDER, "--data", data, *words)
    assert "shown at 16 x 16, others than 224 x 224 resized" in printed and "never mirrored" in printed
    assert json.loads((tmp_path / "run" / "config.json").read_text())["pretrained_cfg"]["input_size"] == [3, 16, 16]


def test_arrows_are_not_mirrored_when_told(tmp_path):
    arrow = np.zeros((16, 16, 3), np.uint8)
    arrow[:, :6] = 255  # bright on the left
    for split, count in (("train", 24), ("test", 4)):
        for index in range(count):
            path = tmp_path / "data" / split / ("right", "left")[index % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(arrow if index % 2 else arrow[:, ::-1]).save(path)
    for name, kept in (("crop", True), ("resized_crop", True), ("none", True), ("crop_flip", False), (None, False)):
        words = ["--data", str(tmp_path / "data"), "--output_dir", str(tmp_path / "run")]
        recipe = read_recipe("distill", [*words, *([] if name is None else ["--image_augmentation", name])])
        _, train = student_and_training_set(recipe, load_run_data(recipe.config))
        batch = train.__getitems__(range(24))
        left = batch["pixel_values"][..., :8].mean((1, 2, 3)) > batch["pixel_values"][..., 8:].mean((1, 2, 3))
        # "left" is class 0, in the order of names. A random part may lie wholly in one half.
        assert ((left == (batch["labels"] == 0)).float().mean() > 0.85) == kept


def test_what_cannot_be_done_is_refused_before_anything_is_written(tmp_path, refused):
    run = tmp_path / "run"
    line = refused("distill", *QUIET, "--image_augmentation", "crop_flp", "--output_dir", run)
    assert "Unknown image_augmentation 'crop_flp'. Did you mean 'crop_flip'" in line
    assert "image_size is 0" in refused("distill", *QUIET, "--image_size", "0", "--output_dir", run)
    data = write_images(tmp_path / "data")
    # A preset's name states the size of its images.
    preset = ["--data", "cifar100", "--data_dir", data, "--output_dir", run]
    line = refused("train-teacher", *FOLDER, *preset)
    assert "is 20 x 20, but the preprocessing expects 32 x 32" in line and "--data FOLDER" in line
    broken = data / "train" / "class 1" / "005.png"
    broken.write_bytes(broken.read_bytes()[:200])
    line = refused("train-teacher", *FOLDER, "--data", data, "--output_dir", run)
    assert f"({broken}) cannot be decoded" in line and "Replace it" in line
    assert not run.exists()
