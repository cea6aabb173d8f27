"""Every field of the installed TrainingArguments is in the table of docs/trainer.md, and behaves as the table says."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from tiny_runs import EVAL, Before, config, losses, make_trainer, network, outcome, run_training
from transformers import TrainingArguments

from hf_kcd.training.results import run_results

PAGE = (Path(__file__).parents[2] / "docs" / "trainer.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (`.*?) \| (\w+) \|", PAGE.split("\n## TrainingArguments\n")[1], re.M)
TABLE = [(name, says) for names, says in ROWS for name in re.findall(r"`(\w+)`", names)]
# Another value than the default of each field that is refused.
OTHERS = {
    "optim_target_modules": ["fc"],
    "label_smoothing_factor": 0.1,
    "include_num_input_tokens_seen": "all",
    "average_tokens_across_devices": False,
    "liger_kernel_config": {"rope": True},
    "neftune_noise_alpha": 5.0,
    "torch_empty_cache_steps": 3,
    "hub_token": "hf_abc",
    "parallelism_config": "2d",
    "fsdp_config": {"version": 2},
    "deepspeed": {"train_batch_size": 8},
    "dataloader_in_order": False,
    "label_names": ["label"],
    "train_sampling_strategy": "group_by_length",
    "length_column_name": "size",
    "activation_checkpointing_kwargs": {"use_reentrant": False},
    "gradient_checkpointing_kwargs": {"use_reentrant": False},
}


def test_the_table_has_each_field_of_the_installed_version_once():
    assert sorted(name for name, _ in TABLE) == sorted(one.name for one in fields(TrainingArguments))
    assert {says for _, says in TABLE} == {"honored", "changed", "refused"}


@pytest.mark.parametrize("name", [name for name, says in TABLE if says == "refused"])
def test_a_refused_field_is_refused_by_name(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} is ") as error:
        config(tmp_path / "run", **{name: OTHERS.get(name, True)})
    assert "hf_abc" not in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"hub_strategy": name}, "pickles") for name in ("checkpoint", "all_checkpoints")),
        ({"debug": "tpu_metrics_debug"}, "tpu_metrics_debug"),
        # Values that transformers would ignore.
        ({"save_strategy": "epoch", "save_steps": 5}, "save_steps is 5.*save_strategy='steps'"),
        ({"eval_strategy": "epoch", "eval_steps": 5}, "eval_steps is 5.*eval_strategy='steps'"),
        ({"dataloader_persistent_workers": True}, "dataloader_num_workers"),
        ({"dataloader_multiprocessing_context": "spawn"}, "dataloader_num_workers"),
        ({"accelerator_config": {"split_batch": True}}, "'split_batches'"),
        *(
            ({"accelerator_config": {name: value}}, f"{name} of accelerator_config is {value}")
            for name, value in (
                *(("split_batches", True), ("dispatch_batches", True), ("even_batches", False)),
                *(("use_seedable_sampler", False), ("gradient_accumulation_kwargs", {"num_steps": 2})),
            )
        ),
    ],
)
def test_values_that_could_not_be_honored(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **options)


def evaluated(trainer) -> list[tuple[int, float]]:
    return [(line["step"], line["epoch"]) for line in trainer.state.log_history if "eval_top1" in line]


# Six steps an epoch. What a field changes, beside the weights, which stay as they are.
EFFECTS = {
    "eval_on_start": ({"eval_on_start": True}, lambda trainer: evaluated(trainer)[0] == (0, 0)),
    "eval_delay": (
        {"eval_delay": 2, "eval_strategy": "epoch"},
        lambda trainer: evaluated(trainer) == [(12, 2.0)],
    ),
    "eval_steps": (
        {"eval_strategy": "steps", "eval_steps": 5},
        lambda trainer: [step for step, _ in evaluated(trainer)][:2] == [5, 10],
    ),
    "logging_first_step": (
        {"logging_first_step": True, "logging_steps": 4},
        lambda trainer: [line["step"] for line in losses(trainer)] == [1, 4, 8, 12],
    ),
    "logging_steps as a share": (
        {"logging_steps": 0.5},
        lambda trainer: [line["step"] for line in losses(trainer)] == [6, 12],
    ),
    "torch_compile": (
        {"torch_compile_backend": "eager"},
        lambda trainer: isinstance(trainer.model_wrapped, torch._dynamo.eval_frame.OptimizedModule),
    ),
    "workers": (
        {"dataloader_num_workers": 1, "dataloader_prefetch_factor": 3, "dataloader_persistent_workers": True},
        lambda trainer: trainer.get_train_dataloader().base_dataloader.prefetch_factor == 3,
    ),
    "save_only_model": (
        {"save_only_model": True, "save_strategy": "epoch"},
        lambda trainer: not list(Path(trainer.args.output_dir).glob("checkpoint-12/optimizer.pt")),
    ),
    "save_total_limit": (
        {"save_strategy": "steps", "save_steps": 3, "save_total_limit": 3},
        lambda trainer: len(list(Path(trainer.args.output_dir).glob("checkpoint-*"))) == 3,
    ),
}
TWO = {"num_train_epochs": 2, "eval_dataset": EVAL}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """How a run of two epochs ends without any of these fields."""
    return outcome(run_training(tmp_path_factory.mktemp("plain"), **TWO))


@pytest.mark.parametrize("name", EFFECTS)
def test_an_honored_field_has_its_effect_and_leaves_the_training_as_it_is(tmp_path, plain, name):
    options, has_effect = EFFECTS[name]
    trainer = run_training(tmp_path, **TWO, **options)
    assert has_effect(trainer)
    end = outcome(trainer)
    assert all(torch.equal(end[key], tensor) for key, tensor in plain.items())


def test_activations_are_recomputed_during_the_training_alone(tmp_path, plain):
    seen, student = [], network()
    watch = Before(3, lambda: seen.append(student.grad_checkpointing))
    trainer = run_training(tmp_path, None, [watch], model=student, activation_checkpointing=True, **TWO)
    assert seen == [True] and not student.grad_checkpointing
    end = outcome(trainer)
    assert all(torch.equal(end[key], tensor) for key, tensor in plain.items())


def test_the_seed_of_the_data_changes_the_order_alone(tmp_path):
    drawn = {}
    for seed in (None, 3, 7):
        trainer = run_training(tmp_path / str(seed), method="spy", num_train_epochs=1, data_seed=seed)
        drawn[seed] = trainer.method.by_epoch("point_ids")[0]
    # 3 is the seed of the run.
    assert torch.equal(drawn[None], drawn[3]) and not torch.equal(drawn[None], drawn[7])
    assert torch.equal(drawn[None].sort().values, drawn[7].sort().values)


def test_metrics_get_the_inputs_and_losses_that_they_ask_for(tmp_path):
    seen = []

    def compute(prediction):
        seen.append((prediction.inputs.shape, prediction.losses.shape))
        return {"score": 1.0}

    trainer = make_trainer(
        tmp_path, eval_dataset=EVAL, compute_metrics=compute, include_for_metrics=["inputs", "loss"]
    )
    assert trainer.evaluate()["eval_score"] == 1 and seen == [((40, 3, 8, 8), (40,))]


def test_max_steps_beyond_the_schedule_is_said_and_rates_count_what_was_drawn(tmp_path, caplog):
    # 88 points are five batches of 16 and one of 8.
    for max_steps, steps, points in ((2, 2, 32), (7, 7, 104), (20, 12, 176)):
        trainer = make_trainer(tmp_path / str(max_steps), num_train_epochs=2, max_steps=max_steps)
        metrics = trainer.train().metrics
        assert trainer.state.global_step == steps
        ratio = metrics["train_samples_per_second"] / metrics["train_steps_per_second"]
        assert ratio == pytest.approx(points / steps, rel=1e-2)
    warned = [record.message for record in caplog.records if "max_steps" in record.message]
    assert warned == ["max_steps is 20, but 2 epochs have 12 steps: raise num_train_epochs to train longer."]


def test_what_is_recorded_is_what_was_computed(tmp_path, monkeypatch):
    def recorded(name, **options):
        trainer = run_training(tmp_path / name, num_train_epochs=1, **options)
        return run_results(trainer, data="images")["optimisation"]

    plain = recorded("sgd")
    assert [plain[name] for name in ("optimiser", "momentum", "nesterov")] == ["sgd", 0.9, False]
    assert recorded("given", optim_args="momentum=0.5")["momentum"] == 0.5
    adam = recorded("adamw", optim="adamw_torch", learning_rate=1e-3, lr_scheduler_type="cosine", warmup_steps=0.5)
    assert (adam["optimiser"], adam["momentum"], adam["nesterov"]) == ("adamw_torch", None, None)
    assert (adam["lr_schedule"], adam["lr_decay_epochs"], adam["warmup_steps"]) == ("cosine", None, 0.5)
    student = network()
    own = recorded("own", model=student, optimizers=(torch.optim.Adam(student.parameters(), lr=0.002), None))
    assert (own["optimiser"], own["learning_rate"], own["weight_decay"]) == ("Adam", 0.002, 0)
    assert plain["precision"] == "fp32"
    # What `accelerate launch --mixed_precision bf16` sets.
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert recorded("bf16")["precision"] == "bf16" and config(tmp_path).bf16


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE say.*RANK, MASTER_ADDR, MASTER_PORT are not set"),
        ({"LOCAL_RANK": "0"}, "LOCAL_RANK say.*WORLD_SIZE"),
        *(({f"ACCELERATE_USE_{name}": "true"}, f"ACCELERATE_USE_{name}") for name in ("FSDP", "DEEPSPEED")),
        ({"ACCELERATE_MIXED_PRECISION": "fp8"}, "ACCELERATE_MIXED_PRECISION is 'fp8'"),
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, "CPU would compute in float32"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS is 4"),
    ],
)
def test_a_launch_that_cannot_be_followed(tmp_path, monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        config(tmp_path / "run", use_cpu=False)
    assert not (tmp_path / "run").exists()


def test_a_process_that_is_not_in_the_group_of_its_launch(tmp_path, monkeypatch):
    PartialState(cpu=True)
    group = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in group.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="2 processes were launched.*a group of 1.*torchrun"):
        config(tmp_path, accelerator_config={"use_configured_state": True})


def test_a_compilation_that_the_launcher_asks_for_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
    args = config(tmp_path)
    assert args.torch_compile and args.torch_compile_backend == "eager"
