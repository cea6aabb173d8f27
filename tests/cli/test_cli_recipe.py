"""What a run is told: a YAML file under the command line, names that do not exist, and what goes back into a file."""

import os

import pytest
import yaml

from hf_kcd.cli.recipe import read_recipe
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


def test_both_spellings_name_one_option(read):
    assert read("--condense --final-ratio 0.4").kcd == read("--condense --final_ratio 0.4").kcd


@pytest.mark.parametrize("number", ["1e-3", "1.0e-3", 0.001])
def test_numbers_in_a_file_are_what_people_mean(read, tmp_path, number):
    # YAML itself takes 1e-3 for a word.
    assert read(learning_rate=number).args.learning_rate == 0.001


def test_lists_mappings_and_switches_of_a_file(read):
    recipe = read(lr_decay_epochs=[8, 10.5], num_train_epochs=12, method_options={"temperature": 2}, plots=False)
    assert recipe.args.lr_decay_epochs == [8, 10.5]
    assert recipe.args.method_options == {"temperature": 2}
    assert recipe.config.plots is False


def test_options_of_condensation_override_the_preset_alone(read):
    assert read(condense=True).kcd == KCDConfig()
    assert read("--max_perturbation 0.1", condense=True, preset="released_code").kcd == KCDConfig.released_code(
        max_perturbation=0.1
    )


def test_option_of_condensation_without_condense_is_refused(read):
    with pytest.raises(ValueError, match="final_ratio is given but condense is not"):
        read("--final_ratio 0.5")
    with pytest.raises(ValueError, match="preset is given but condense is not"):
        read(preset="paper")


def test_condensed_recipe_serves_on_a_mask(read):
    recipe = read("--mask me/my-mask", condense=True, final_ratio=0.5)
    assert recipe.kcd is None and recipe.config.mask == "me/my-mask"
    with pytest.raises(ValueError, match="give one of them"):
        read("--mask me/my-mask --condense")
    with pytest.raises(ValueError, match="give one of them"):
        read(condense=True, mask="me/my-mask")
    with pytest.raises(ValueError, match="final_ratio is given but condense is not"):
        read("--mask me/my-mask --final_ratio 0.5", condense=True)


def test_condensed_recipe_serves_as_the_plain_one(read):
    assert read("--condense false", condense=True, final_ratio=0.5).kcd is None
    with pytest.raises(ValueError, match="final_ratio is given but condense is not"):
        read("--condense false --final_ratio 0.5", condense=True)


def test_unknown_names_come_with_the_nearest(read):
    with pytest.raises(ValueError, match=r"file\.yaml.*'final_rato'.*final_ratio"):
        read(final_rato=0.5)
    with pytest.raises(ValueError, match=r"'--learning_rat'.*learning_rate"):
        read("--learning_rat 0.5")
    with pytest.raises(ValueError, match=r"'papr'.*'paper'"):
        read("--condense --preset papr")


@pytest.mark.parametrize(
    ("content", "said"),
    [("learning_rate: [", "no YAML file"), ("- 1", "list"), ("learning_rate: fast", "learning_rate.*'fast'")],
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


def test_contradictions_are_refused(read):
    with pytest.raises(ValueError, match="teacher_checkpoint"):
        read("--teacher_checkpoint t.pth")
    with pytest.raises(ValueError, match="mask"):
        read("--condense --mask m")
    with pytest.raises(ValueError, match="train_points is 0"):
        read("--train_points 0")


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


def test_saved_recipe_names_no_place_that_was_not_typed(read, tmp_path):
    read("--data digits").save(tmp_path / "saved.yaml")
    text = (tmp_path / "saved.yaml").read_text()
    assert str(tmp_path) not in text
    assert os.path.expanduser("~") not in text


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
