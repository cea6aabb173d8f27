"""The recipes: each parses, names networks that exist, and says what the papers say."""

import subprocess
import sys
from pathlib import Path

import pytest
import timm

import hf_kcd  # noqa: F401  (registers the networks)
from hf_kcd.cli.demo import _TRAIN_POINTS
from hf_kcd.cli.recipe import read_recipe
from hf_kcd.methods import method_options

RECIPES = Path(__file__).parents[2] / "recipes"
FILES = sorted(RECIPES.glob("*/*.yaml"))


def read(path: Path):
    return read_recipe("distill", ["--config", str(path), "--output_dir", "x"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_recipe_is_a_run(path):
    recipe = read(path)
    assert recipe.config.data == path.parent.name
    assert timm.is_model(recipe.config.student)
    if recipe.config.teacher is not None:
        assert timm.is_model(recipe.config.teacher)
    assert set(recipe.args.method_options) <= set(method_options(recipe.args.method))
    assert not Path(recipe.config.data_dir or "").is_absolute()
    if recipe.kcd is not None:
        schedule = recipe.kcd.schedule(1_000, recipe.args.num_train_epochs)
        assert schedule.num_kept(recipe.args.num_train_epochs) == 700


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_name_of_a_recipe_is_its_pair(path):
    config = read(path).config
    student, teacher = (
        name and name.removeprefix("cifar_").split(".")[0] for name in (config.student, config.teacher)
    )
    if path.stem.startswith("teacher_"):
        assert path.stem == f"teacher_{student}"
    elif teacher is not None:
        assert path.stem.removeprefix("short_") == f"{teacher}_{student}"


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.parent.name == "cifar100" and "short" not in path.stem]
)
def test_cifar_recipes_are_the_papers(path):
    recipe = read(path)
    args = recipe.args
    assert (args.num_train_epochs, args.per_device_train_batch_size, args.learning_rate) == (240, 64, 0.05)
    assert (args.lr_decay_epochs, args.lr_decay_rate) == ([150, 180, 210], 0.1)
    assert (args.momentum, args.nesterov, args.weight_decay) == (0.9, False, 5e-4)
    if recipe.kcd is not None:
        assert (recipe.kcd.epochs_per_stage, recipe.kcd.final_ratio) == (40, 0.7)
        # The paper prints 81.61 %; a first epoch on all points and floors make it 81.76 % (Eq. 16 as really trained).
        assert recipe.kcd.schedule(50_000, 240).relative_cost == pytest.approx(0.8176, abs=5e-5)


def test_imagenet_recipe_is_the_papers():
    recipe = read(RECIPES / "imagenet" / "resnet34_resnet18.yaml")
    assert (recipe.args.num_train_epochs, recipe.args.learning_rate, recipe.args.lr_decay_epochs) == (
        90,
        0.1,
        [30, 60],
    )
    assert (recipe.kcd.epochs_per_stage, recipe.kcd.final_ratio) == (15, 0.7)


def test_digits_recipe_is_what_the_demo_does():
    recipe = read(RECIPES / "digits" / "resnet20_resnet8.yaml")
    assert recipe.config.train_points == _TRAIN_POINTS
    assert (recipe.args.num_train_epochs, recipe.kcd.epochs_per_stage) == (24, 4)


@pytest.mark.parametrize("name", ["distill", "train_teacher"])
def test_files_for_accelerate_launch_start(name):
    done = subprocess.run([sys.executable, RECIPES / f"{name}.py", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert f"usage: hf-kcd {name.replace('_', '-')}" in done.stdout
