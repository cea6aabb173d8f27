"""The recipe of a run: a YAML file under the command line, wrong names, and what is written back into a file."""

import os

import numpy as np
import pytest
import yaml

from hf_kcd.cli.options import RENAMED
from hf_kcd.cli.recipe import read_recipe
from hf_kcd.data import first_points, load_image_data
from hf_kcd.training import KCDConfig


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read_with(words="", **values):
        (tmp_path / "file.yaml").write_text(yaml.safe_dump(values))
        return read_recipe("distill", ["--config", "file.yaml", "--output_dir", "x", *words.split()])

    return read_with


def test_command_line_wins_over_file_and_file_over_default(read):
    recipe = read("--learning_rate 0.2", learning_rate=0.1, weight_decay=0.001)
    assert recipe.args.learning_rate == 0.2
    assert recipe.args.weight_decay == 0.001
    assert recipe.args.momentum == 0.9


def test_old_names_of_options_keys_and_method_options_work_with_a_warning(read, monkeypatch, capsys):
    monkeypatch.setitem(RENAMED, "share_kept", "final_ratio")
    expected = read("--condense --final_ratio 0.4").kcd
    assert capsys.readouterr().err == ""
    assert read("--condense --final-ratio 0.4").kcd == read("--condense --share_kept=0.4").kcd == expected
    assert read("--condense", share_kept=0.4).kcd == read(**{"condense": True, "final-ratio": 0.4}).kcd == expected
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 4 and all("is now spelled final_ratio" in line for line in told)
    monkeypatch.setitem(RENAMED, "softness", "temperature")
    assert read('--method_options {"softness":2}').args.method_options == {"temperature": 2}
    assert "softness is now spelled temperature" in capsys.readouterr().err


def test_values_of_a_file_mean_what_people_mean(read):
    # YAML itself takes 1e-3 for a word.
    for number in ("1e-3", "1.0e-3", 0.001):
        assert read(learning_rate=number).args.learning_rate == 0.001
    recipe = read(lr_decay_epochs=[8, 10.5], num_train_epochs=12, method_options={"temperature": 2}, plots=False)
    assert recipe.args.lr_decay_epochs == [8, 10.5]
    assert recipe.args.method_options == {"temperature": 2}
    assert recipe.config.plots is False


def test_options_of_condensation_override_the_preset_alone(read):
    assert read(condense=True).kcd == KCDConfig()
    assert read("--max_perturbation 0.1", condense=True, preset="released_code").kcd == KCDConfig.released_code(
        max_perturbation=0.1
    )


def test_a_condensed_recipe_serves_on_a_mask_and_without_condensation(read):
    recipe = read("--mask me/my-mask", condense=True, final_ratio=0.5)
    assert recipe.kcd is None and recipe.config.mask == "me/my-mask"
    assert read("--condense false", condense=True, final_ratio=0.5).kcd is None


@pytest.mark.parametrize(
    ("words", "values", "said"),
    [
        ("--final_ratio 0.5", {}, "final_ratio is given but condense is not"),
        ("", {"preset": "paper"}, "preset is given but condense is not"),
        ("--condense false --final_ratio 0.5", {"condense": True}, "final_ratio is given but condense is not"),
        ("--mask me/my-mask --final_ratio 0.5", {"condense": True}, "final_ratio is given but condense is not"),
        ("--mask me/my-mask --condense", {}, "give one of them"),
        ("", {"condense": True, "mask": "me/my-mask"}, "give one of them"),
        ("--teacher_checkpoint t.pth", {}, "teacher_checkpoint is given but teacher is not"),
        ("--soft_labels", {}, "soft_labels come with a mask"),
        ("--soft_labels --mask me/my-mask --teacher t", {}, "soft_labels replace the teacher"),
        ("--train_points 0", {}, "train_points is 0"),
        ("", {"final_rato": 0.5}, r"file\.yaml.*'final_rato'.*final_ratio"),
        ("--learning_rat 0.5", {}, r"'--learning_rat'.*learning_rate"),
        ("--condense --preset papr", {}, r"'papr'.*'paper'"),
    ],
)
def test_contradictions_and_unknown_names_are_refused(read, words, values, said):
    with pytest.raises(ValueError, match=said):
        read(words, **values)


@pytest.mark.parametrize(
    ("content", "said"),
    [("learning_rate: [", "not a YAML file"), ("- 1", "list"), ("learning_rate: fast", "learning_rate.*'fast'")],
)
def test_files_that_are_no_recipe(tmp_path, content, said):
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(ValueError, match=said):
        read_recipe("distill", ["--config", str(tmp_path / "bad.yaml"), "--output_dir", "x"])


def test_file_and_folder_must_be_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.yaml"):
        read_recipe("distill", ["--config", str(tmp_path / "nothing.yaml")])
    with pytest.raises(ValueError, match="output_dir is missing"):
        read_recipe("distill", [])


@pytest.mark.parametrize("condense", [True, False])
def test_saved_recipe_reads_back_as_itself(read, tmp_path, condense):
    words = '--adam_beta1 0.8 --lr_decay_epochs 3 5 --num_train_epochs 7 --method_options {"temperature":2.5}'
    recipe = read(words + (" --condense --preset released_code --cost_exponent 0" if condense else ""))
    recipe.save(tmp_path / "saved.yaml")
    again = read_recipe("distill", ["--config", str(tmp_path / "saved.yaml"), "--output_dir", "x"])
    assert again.config == recipe.config
    assert again.kcd == recipe.kcd
    first, second = recipe.args.to_dict(), again.args.to_dict()
    assert first == second
    assert first["adam_beta1"] == 0.8
    # It names no place that was not typed.
    text = (tmp_path / "saved.yaml").read_text()
    assert str(tmp_path) not in text
    assert os.path.expanduser("~") not in text


def test_first_points_take_the_classes_in_turn():
    digits = load_image_data("digits").train
    labels = np.array(digits["label"])
    chosen = first_points(digits, 95)
    # 95 of ten classes: ten of five classes, nine of the others; and always the first of each class.
    counts = np.bincount(chosen["label"], minlength=10)
    assert sorted(counts) == [9] * 5 + [10] * 5
    expected = sorted(row for label in range(10) for row in np.flatnonzero(labels == label)[: counts[label]])
    assert chosen["label"] == labels[expected].tolist()
    with pytest.raises(ValueError, match="1501"):
        first_points(digits, 1502)


def test_a_file_overrides_its_base_and_the_command_line_both(tmp_path):
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "pair.yaml").write_text(
        "student: cifar_resnet20\nlearning_rate: 0.02\nlr_decay_epochs: [3, 4]\n"
    )
    (tmp_path / "method.yaml").write_text(
        "base: pairs/pair.yaml\nlearning_rate: 0.03\nlr_decay_epochs: [5]\nmomentum: 0.8\n"
    )
    words = ["--config", str(tmp_path / "method.yaml"), "--output_dir", "x", "--momentum", "0.7"]
    recipe = read_recipe("distill", words)
    assert recipe.config.student == "cifar_resnet20"
    assert (recipe.args.learning_rate, recipe.args.lr_decay_epochs, recipe.args.momentum) == (0.03, [5.0], 0.7)
    (tmp_path / "pairs" / "pair.yaml").write_text("base: ../method.yaml\n")
    with pytest.raises(ValueError, match="based on"):
        read_recipe("distill", words)


def test_a_folder_is_not_taken_for_a_hub_id_elsewhere(read, tmp_path):
    (tmp_path / "data" / "insects").mkdir(parents=True)
    (tmp_path / "runs" / "mask").mkdir(parents=True)
    config = read("--data data/insects --mask runs/mask").config
    assert (config.data, config.mask) == ("./data/insects", "./runs/mask")
    config = read("--data user/insects --mask user/mask").config
    assert (config.data, config.mask) == ("user/insects", "user/mask")
