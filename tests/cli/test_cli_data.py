"""The data that a command is given: classes in another order, several label columns, no split to evaluate on."""

import json
import shutil
from pathlib import Path

import datasets
import pytest
from tiny import QUIET

from hf_kcd import load_model
from hf_kcd.cli.main import main
from hf_kcd.data import load_image_data
from hf_kcd.models import label_names

DIGITS = [str(digit) for digit in range(10)]
# As a file system sorts more than ten folders: no longer by number.
TURNED = ["0", "1", "9", "2", "8", "3", "7", "4", "6", "5"]


def turned(dataset: datasets.Dataset, names: list[str] = TURNED) -> datasets.Dataset:
    labels = [names.index(str(label)) for label in dataset["label"][:]]
    return dataset.remove_columns("label").add_column("label", labels, feature=datasets.ClassLabel(names=names))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The digits, with the classes in another order."""
    digits, path = load_image_data("digits"), tmp_path_factory.mktemp("data") / "turned"
    datasets.DatasetDict(train=turned(digits.train), test=turned(digits.eval)).save_to_disk(path)
    return path


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> Path:
    """A teacher that knows the digits."""
    folder = tmp_path_factory.mktemp("taught") / "run"
    words = "train-teacher --network cifar_resnet8 --num_train_epochs 3 --lr_schedule cosine --use_cpu --no_plots"
    main([*words.split(), "--disable_tqdm", "true", "--output_dir", str(folder)])
    return folder


def accuracy(hf_kcd, tmp_path: Path, *words: object) -> float:
    hf_kcd("evaluate", *words, "--json", tmp_path / "accuracy.json")
    return json.loads((tmp_path / "accuracy.json").read_text())["top1"]


def test_a_network_is_evaluated_by_the_names_of_its_classes(taught, folder, tmp_path, hf_kcd, refused):
    expected = json.loads((taught / "results.json").read_text())["accuracy"]["last"]["top1"]
    assert accuracy(hf_kcd, tmp_path, taught, "--data", folder) == pytest.approx(expected)
    assert expected > 60
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    shutil.copytree(taught, strange := tmp_path / "strange")
    config = json.loads((strange / "config.json").read_text())
    (strange / "config.json").write_text(json.dumps({**config, "label_names": words}))
    assert "Only the network has zero, one" in refused("evaluate", strange, "--data", folder)


def test_teacher_and_student_that_goes_on_learn_on_data_in_another_order(taught, folder, tmp_path, hf_kcd):
    words = [*QUIET, "--num_train_epochs", "1", "--learning_rate", "1e-9", "--data", folder, "--teacher", taught]
    hf_kcd("distill", *words, "--student", taught, "--output_dir", tmp_path / "run")
    found, before = (json.loads((run / "results.json").read_text()) for run in (tmp_path / "run", taught))
    # It has learned nothing new: it is as right as it was, and agrees with its teacher on the labels' order.
    assert found["accuracy"]["last"]["top1"] == pytest.approx(before["accuracy"]["last"]["top1"], abs=3)
    assert found["history"]["loss"][0] < 0.6
    assert label_names(load_model(tmp_path / "run")) == DIGITS
    hf_kcd("distill", *words, "--student", "cifar_resnet8", "--output_dir", tmp_path / "new")
    assert label_names(load_model(tmp_path / "new")) == TURNED


def test_the_column_and_the_splits_are_chosen_in_every_command(tmp_path, hf_kcd, refused):
    digits = load_image_data("digits")
    odd = datasets.ClassLabel(names=["even", "odd"])
    splits = {
        name: split.add_column("parity", [label % 2 for label in split["label"][:]], feature=odd)
        for name, split in (("learn", digits.train), ("look", digits.eval))
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "data")
    data = ["--data", tmp_path / "data", "--train_split", "learn", "--eval_split", "look", "--label_column", "parity"]
    hf_kcd("train-teacher", *QUIET, *data, "--network", "cifar_resnet8", "--output_dir", tmp_path / "run")
    last = json.loads((tmp_path / "run" / "results.json").read_text())["accuracy"]["last"]["top1"]
    assert accuracy(hf_kcd, tmp_path, tmp_path / "run", *data) == pytest.approx(last)
    assert accuracy(hf_kcd, tmp_path, tmp_path / "run", *data, "--image_column", "image") == pytest.approx(last)
    # The first label column has ten classes.
    assert "10" in refused("evaluate", tmp_path / "run", *data[:6])
    assert "label column 'oddity'" in refused("evaluate", tmp_path / "run", *data[:6], "--label_column", "oddity")


def test_a_set_without_a_split_to_evaluate_on_says_so(tmp_path, hf_kcd):
    load_image_data("digits").train.save_to_disk(tmp_path / "data")
    words = [*QUIET, "--num_train_epochs", "1", "--data", tmp_path / "data", "--network", "cifar_resnet8"]
    said = hf_kcd("train-teacher", *words, "--output_dir", tmp_path / "run")
    assert (
        "has no split to evaluate on (test, validation, …): the student is not evaluated. Name one with --eval_split"
        in said
    )
    assert json.loads((tmp_path / "run" / "results.json").read_text())["accuracy"] is None
    assert "not evaluated" not in hf_kcd(
        "train-teacher", *words, "--eval_strategy", "no", "--output_dir", tmp_path / "other"
    )


def test_push_refuses_a_student_of_other_classes_than_its_mask_and_options_without_use(condensed, tmp_path, refused):
    shutil.copytree(condensed, run := tmp_path / "run")
    for file, kind in (("config.json", "sign"), ("mask/mask_config.json", "word")):
        config, names = json.loads((run / file).read_text()), [f"{kind} {digit}" for digit in DIGITS]
        config |= (
            {"label_names": names} if kind == "sign" else {"dataset": {**config["dataset"], "class_names": names}}
        )
        (run / file).write_text(json.dumps(config))
    words = ["push", run, "me/one", "--dry_run", tmp_path / "out"]
    assert "Classes differ: student 10 (sign 0" in refused(*words) and not (tmp_path / "out").exists()
    assert "label_column is given, but only soft labels need the data" in refused(*words, "--label_column", "label")
    assert "data is given" in refused("plot", condensed, run, "--data", "digits")


def test_plot_finds_the_images_of_a_run_elsewhere(condensed, folder, tmp_path, hf_kcd):
    shutil.copytree(condensed, run := tmp_path / "run")
    shutil.rmtree(run / "plots")
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("data: digits", f"data: {tmp_path / 'gone'}"))
    assert "No contact sheets" in hf_kcd("plot", run)
    # The same points, their classes in another order.
    hf_kcd("plot", run, "--data", folder)
    assert (run / "plots" / "most_valuable.png").is_file()
