"""Every option of a run, with values of every type: what is written into recipe.yaml reads back equal."""

from collections.abc import Callable
from dataclasses import fields
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import yaml

from hf_kcd.cli.recipe import Recipe, RunConfig, read_recipe
from hf_kcd.training import DistillationConfig, KCDConfig
from hf_kcd.training.training_arguments import REFUSED

CONFIGS = (RunConfig, DistillationConfig, KCDConfig)
HINTS = {name: hint for config in CONFIGS for name, hint in get_type_hints(config).items()}
# Where a run is written, and whether it goes on, is no part of a recipe.
ELSEWHERE = {"output_dir", "resume", "resume_from_checkpoint", "disable_tqdm"}
NAMES = [f.name for config in CONFIGS for f in fields(config) if f.init and f.name not in ELSEWHERE]

# Words that YAML takes for something else, or that the command line would take for an option.
WORDS = ["null", "no", "1e-3", "007", "a b: c # d", "--seed", "-1", "größer", "'\"\n", ""]
VALUES = {
    int: [3, 0],
    float: [0.25, 1e-7, 2.0],
    bool: [True, False],
    str: WORDS,
    list: [["a b", "--seed", "null", "1e-3", "2"], ["1"], [2, 3.5], []],
    dict: [{"a": {"b": [1, None, True, "no", 0.5]}, "c d": "null"}, {}],
    NoneType: [None],
}
# Options that take certain words or keys alone.
WORDS_OF = {
    "preset": ["released_code"],
    "optim": ["adamw_torch", "adafactor"],
    "accelerator_config": [{"even_batches": True, "split_batches": False}],
    "debug": ["underflow_overflow", ["underflow_overflow"]],
    "log_level": ["error"],
    "log_level_replica": ["error"],
    "save_strategy": ["steps"],
    "train_sampling_strategy": ["sequential", "random"],
    "method": ["takd"],
    "method_options": ["temperature: 2", "{temperature: 2}", '{"temperature": 2}'],
    "student_layers": ["stages", ["stages"], [1, 2]],
    "teacher_layers": ["stages", ["stages"], [1, 2]],
    "lr_schedule": ["cosine"],
    "lr_scheduler_kwargs": [{"min_lr": 0.001}],
    "shape": ["linear"],
    "first_selection": ["after_first_stage"],
    "value": ["random"],
    "augmentation": ["fixed", "none"],
    "partners": ["newly_discarded"],
}
TOGETHER_WITH = {
    "eval_delay": {"eval_strategy": "epoch"},
    **{f"trackio_{name}": {"report_to": "trackio"} for name in ("space_id", "bucket_id", "static_space_id")},
    "teacher_checkpoint": {"teacher": "t"},
    "assistants": {"teacher": "t"},
    "soft_labels": {"mask": "me/m"},
}
TOGETHER_WITH |= {name: {"save_strategy": "steps"} for name in ("save_steps", "save_total_limit")}
TOGETHER_WITH["optim"] = {"learning_rate": 1e-3}
TOGETHER_WITH |= {
    f"adam_{name}": {"optim": "adamw_torch", "learning_rate": 1e-3} for name in ("beta1", "beta2", "epsilon")
}
TOGETHER_WITH["warmup_steps"] = {"lr_scheduler_type": "cosine"}
TOGETHER_WITH["lr_scheduler_kwargs"] = {"lr_scheduler_type": "cosine_with_min_lr"}
TOGETHER_WITH |= {name: {"condense": True} for name in ("preset", *KCDConfig.__dataclass_fields__)}
OF_PUSH = ("hub_model_id", "hub_private_repo", "hub_revision", "hub_strategy", "hub_always_push")
TOGETHER_WITH |= {name: {"push_to_hub": True} for name in OF_PUSH}
# No value of them has an effect on the command line.
OF_SCRIPTS = {"do_train", "do_eval", "do_predict"}


def kinds_of(hint: Any) -> list[Any]:
    if get_origin(hint) in (Union, UnionType):
        return [kind for one in get_args(hint) for kind in kinds_of(one)]
    return list(get_args(hint)) if get_origin(hint) is Literal else [get_origin(hint) or hint]


def values_of(name: str) -> list[Any]:
    values = list(WORDS_OF.get(name, []))
    for kind in kinds_of(HINTS[name]):
        is_enum = isinstance(kind, type) and issubclass(kind, Enum)
        values += [member.value for member in kind] if is_enum else VALUES.get(kind, [])
    return values


@pytest.fixture
def read_again(tmp_path, monkeypatch) -> Callable[[Recipe], Recipe]:
    monkeypatch.chdir(tmp_path)

    def run(recipe: Recipe) -> Recipe:
        recipe.save("saved.yaml")
        return read_recipe("distill", ["--config", "saved.yaml", "--output_dir", "x"])

    return run


def assert_equal(one: Recipe, other: Recipe, when: object) -> None:
    assert (one.config, one.kcd) == (other.config, other.kcd), when
    assert one.args.to_dict() == other.args.to_dict(), when


@pytest.mark.parametrize("name", NAMES)
def test_every_value_that_an_option_takes_reads_back_equal(name, tmp_path, read_again):
    taken = []
    for value in values_of(name):
        (tmp_path / "file.yaml").write_text(yaml.safe_dump({name: value, **TOGETHER_WITH.get(name, {})}))
        try:
            recipe = read_recipe("distill", ["--config", "file.yaml", "--output_dir", "x"])
        except Exception as error:
            # Values that an option refuses are the matter of other tests.
            assert str(error), value
            continue
        assert_equal(recipe, read_again(recipe), value)
        taken.append(value)
    assert taken or name in REFUSED or name in OF_SCRIPTS, "no value was tried"


@pytest.mark.parametrize(
    ("words", "name", "expected"),
    [
        (["--report_to", "none"], "report_to", []),
        (["--accelerator_config", "{non_blocking: true}"], "accelerator_config", {"non_blocking": True}),
        (["--method_options", "{temperature: 2}"], "method_options", {"temperature": 2}),
        (
            ["--lr_scheduler_kwargs", '{"min_lr": 0.01}', "--lr_scheduler_type", "cosine_with_min_lr"],
            "lr_scheduler_kwargs",
            {"min_lr": 0.01},
        ),
        (["--run_name=--seed"], "run_name", "--seed"),
        (["--include_for_metrics", "inputs", "loss"], "include_for_metrics", ["inputs", "loss"]),
        (["--lr_decay_epochs", "3", "5.5"], "lr_decay_epochs", [3.0, 5.5]),
    ],
)
def test_what_was_typed_reads_back_equal(words, name, expected, read_again):
    recipe = read_recipe("distill", [*words, "--output_dir", "x"])
    found = getattr(recipe.args, name or words[0].removeprefix("--"))
    assert (expected.items() <= vars(found).items()) if name == "accelerator_config" else found == expected
    assert_equal(recipe, read_again(recipe), words)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 1\nnum_train_epochs: 2\nseed: 2\n", "seed is given twice.*line 3"),
        ("method_options: {temperature: 2, temperature: 4}\n", "temperature is given twice"),
        ("method_options: '{temperature: 2, temperature: 4}'\n", "temperature is given twice"),
        (
            "student: cifar_resnet20\nnetwork: cifar_resnet8\n",
            "student and network in .*file.yaml are the same option",
        ),
    ],
)
def test_an_option_with_two_values_in_a_file_is_refused(tmp_path, text, said):
    (tmp_path / "file.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"(?s){said}"):
        read_recipe("distill", ["--config", str(tmp_path / "file.yaml"), "--output_dir", "x"])


def test_a_method_without_a_teacher_is_given_none(tmp_path):
    (tmp_path / "pair.yaml").write_text("teacher: cifar_resnet20\nassistants: [cifar_resnet14]\n")
    (tmp_path / "alone.yaml").write_text("teacher: cifar_resnet20\nmethod: dml\n")
    to = ["--output_dir", "x"]
    for words in (
        ["--method", "ce", "--teacher", "t"],
        ["--config", str(tmp_path / "alone.yaml")],
        ["--config", str(tmp_path / "pair.yaml"), "--method", "ce", "--teacher_checkpoint", "file.pth"],
    ):
        with pytest.raises(ValueError, match="has no teacher: leave teacher out"):
            read_recipe("distill", [*words, *to])
    recipe = read_recipe("distill", ["--config", str(tmp_path / "pair.yaml"), "--method", "ce", *to])
    assert (recipe.config.teacher, recipe.config.assistants) == (None, None)


def test_a_file_means_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read(text: str) -> Recipe:
        (tmp_path / "file.yaml").write_text(text)
        return read_recipe("distill", ["--config", "file.yaml", "--output_dir", "x"])

    # YAML takes the word no for false.
    args = read("eval_strategy: no\nsave_strategy: no\nsave_total_limit: null\nlr_decay_epochs: 150\n").args
    assert (args.eval_strategy, args.save_strategy, args.save_total_limit) == ("no", "no", None)
    assert args.lr_decay_epochs == [150.0]
    (tmp_path / "base.yaml").write_text("teacher: cifar_resnet20\nlearning_rate: 0.1\n")
    assert read("base: base.yaml\nteacher: null\n").config.teacher is None
    for text, said in (
        ("momentum: null", r"momentum in file\.yaml is empty"),
        ("learning_rate: [1]", r"learning_rate in file\.yaml is a list"),
        ("student: {a: 1}", r"student in file\.yaml is a mapping"),
        ("seed: 1.5", r"seed in file\.yaml is 1\.5"),
        ("bf16: maybe", r"bf16 in file\.yaml is 'maybe'"),
        ("logging_strategy: sometimes", r"sometimes.*'no', 'steps', 'epoch'"),
        ("method_options: '{a: ['", r"method_options in file\.yaml"),
        ("no_plots: true", "Unknown key in file.yaml: 'no_plots'"),
        # A value is a value, never an option.
        ("lr_decay_epochs: [1, --push_to_hub, 'true']", "lr_decay_epochs"),
    ):
        with pytest.raises(ValueError, match=said):
            read(text)
