"""The recipe of a run: a YAML file under the command line, wrong names, and what is written back into a file."""

import os
from dataclasses import fields

import pytest
import yaml

from hf_kcd.cli.recipe import RunConfig, read_recipe
from hf_kcd.training import DistillationConfig, KCDConfig


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read_with(words="", **values):
        (tmp_path / "file.yaml").write_text(yaml.safe_dump(values))
        return read_recipe("distill", ["--config", "file.yaml", "--output_dir", "x", *words.split()])

    return read_with


def test_command_line_wins_over_file_and_file_over_default(read):
    args = read("--learning_rate 0.2", learning_rate=0.1, weight_decay=0.001).args
    assert (args.learning_rate, args.weight_decay, args.momentum) == (0.2, 0.001, 0.9)


def test_old_spellings_of_options_keys_and_method_options_work_with_a_warning(read, capsys):
    expected = read("--condense --final_ratio 0.4").kcd
    assert capsys.readouterr().err == ""
    assert read("--condense --final-ratio 0.4").kcd == read("--condense --final-ratio=0.4").kcd == expected
    assert read(**{"condense": True, "final-ratio": 0.4}).kcd == expected
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3 and all("final-ratio is now spelled final_ratio" in line for line in told)
    with pytest.warns(FutureWarning, match="initialisation_epochs of method 'fitnet' is now first_phase_epochs"):
        args = read('--method fitnet --method_options {"initialisation_epochs":2}').args
    assert args.method_options == {"first_phase_epochs": 2}


def test_values_of_a_file_mean_what_people_mean(read):
    # YAML itself takes 1e-3 for a word.
    for number in ("1e-3", "1.0e-3", 0.001):
        assert read(learning_rate=number).args.learning_rate == 0.001
    recipe = read(lr_decay_epochs=[8, 10.5], num_train_epochs=12, method_options={"temperature": 2}, plots=False)
    assert recipe.args.lr_decay_epochs == [8, 10.5] and recipe.args.method_options == {"temperature": 2}
    assert recipe.config.plots is False


@pytest.mark.parametrize(
    ("words", "strategy"),
    [("", "epoch"), ("--logging_steps 5", "steps"), ("--logging_strategy no --logging_steps 5", "no")],
)
def test_a_run_is_logged_and_evaluated_by_epoch_unless_steps_are_given(read, words, strategy):
    args = read(words).args
    assert (args.logging_strategy, args.eval_strategy) == (strategy, "epoch")


def test_options_of_condensation_override_the_preset_alone(read):
    assert read(condense=True).kcd == KCDConfig()
    released = read("--max_perturbation 0.1", condense=True, preset="released_code").kcd
    assert released == KCDConfig.released_code(max_perturbation=0.1)
    # A condensed recipe serves on a mask and without condensation.
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
        ("--teachr=/data/runs/of/last/year/resnet20", {}, "Did you mean teacher"),
        ("--condense --preset papr", {}, r"'papr'.*'paper'"),
    ],
)
def test_contradictions_and_unknown_names_are_refused(read, words, values, said):
    with pytest.raises(ValueError, match=said):
        read(words, **values)


def test_files_that_are_no_recipe_and_missing_files_and_folders_are_refused(tmp_path):
    for content, said in (
        ("learning_rate: [", "not a YAML file"),
        ("- 1", "list"),
        ("learning_rate: fast", "learning_rate.*'fast'"),
    ):
        (tmp_path / "bad.yaml").write_text(content)
        with pytest.raises(ValueError, match=said):
            read_recipe("distill", ["--config", str(tmp_path / "bad.yaml"), "--output_dir", "x"])
    with pytest.raises(FileNotFoundError, match=r"nothing\.yaml"):
        read_recipe("distill", ["--config", str(tmp_path / "nothing.yaml")])
    with pytest.raises(ValueError, match="output_dir is missing"):
        read_recipe("distill", [])


@pytest.mark.parametrize("condense", [True, False])
def test_saved_recipe_reads_back_as_itself(read, tmp_path, condense):
    words = '--optim adamw_torch --learning_rate 0.001 --adam_beta1 0.8 --lr_decay_epochs 3 5 --num_train_epochs 7 --method_options {"temperature":2.5}'
    recipe = read(words + (" --condense --preset released_code --cost_exponent 0" if condense else ""))
    recipe.save(tmp_path / "saved.yaml")
    again = read_recipe("distill", ["--config", str(tmp_path / "saved.yaml"), "--output_dir", "x"])
    assert again.config == recipe.config and again.kcd == recipe.kcd
    assert again.args.to_dict() == recipe.args.to_dict() and again.args.adam_beta1 == 0.8
    # It names no place that was not typed.
    text = (tmp_path / "saved.yaml").read_text()
    assert str(tmp_path) not in text and os.path.expanduser("~") not in text


def test_a_file_overrides_its_base_and_the_command_line_both(tmp_path):
    (tmp_path / "pairs").mkdir()
    pair = "{student: cifar_resnet20, learning_rate: 0.02, lr_decay_epochs: [3, 4]}"
    method = "{base: pairs/pair.yaml, learning_rate: 0.03, lr_decay_epochs: [5], momentum: 0.8}"
    (tmp_path / "pairs" / "pair.yaml").write_text(pair)
    (tmp_path / "method.yaml").write_text(method)
    words = ["--config", str(tmp_path / "method.yaml"), "--output_dir", "x", "--momentum", "0.7"]
    recipe = read_recipe("distill", words)
    assert recipe.config.student == "cifar_resnet20"
    assert (recipe.args.learning_rate, recipe.args.lr_decay_epochs, recipe.args.momentum) == (0.03, [5.0], 0.7)
    (tmp_path / "pairs" / "pair.yaml").write_text("base: ../method.yaml\n")
    with pytest.raises(ValueError, match="based on"):
        read_recipe("distill", words)


@pytest.mark.parametrize("schedule", ["--lr_schedule cosine", "--lr_scheduler_type cosine --warmup_steps 0.1"])
def test_a_schedule_on_the_command_line_replaces_the_files_with_all_that_belongs_to_it(tmp_path, schedule):
    file = tmp_path / "file.yaml"
    file.write_text("{lr_schedule: multistep, lr_decay_epochs: [3, 4], lr_decay_rate: 0.2, warmup_epochs: 1}")
    words = ["--config", str(file), "--output_dir", "x", *schedule.split()]
    args = read_recipe("distill", words).args
    assert (args.lr_decay_epochs, args.lr_decay_rate, args.warmup_epochs) == (None, 0.1, 0)
    with pytest.raises(ValueError, match="lr_decay_rate is 0.3"):
        read_recipe("distill", [*words, "--lr_decay_rate", "0.3"])
    # In one file, they contradict each other.
    file.write_text("{lr_schedule: cosine, lr_decay_epochs: [3, 4]}")
    with pytest.raises(ValueError, match=r"lr_decay_epochs is \[3.0, 4.0\]"):
        read_recipe("distill", words[:4])


def test_a_folder_is_not_taken_for_a_hub_id_elsewhere(read, tmp_path):
    (tmp_path / "data" / "insects").mkdir(parents=True)
    (tmp_path / "runs" / "mask").mkdir(parents=True)
    config = read("--data data/insects --mask runs/mask").config
    assert (config.data, config.mask) == ("./data/insects", "./runs/mask")
    config = read("--data user/insects --mask user/mask").config
    assert (config.data, config.mask) == ("user/insects", "user/mask")


@pytest.mark.parametrize("config", [RunConfig, DistillationConfig, KCDConfig])
def test_every_option_says_what_it_does(config):
    own = [field for field in fields(config) if field.name in vars(config)["__annotations__"]]
    assert own and not [field.name for field in own if not field.metadata.get("help")]
