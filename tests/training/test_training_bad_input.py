"""Bad input: each one clear error that says what was wrong and what to do, and nothing half-written."""

import resource
import shutil
from dataclasses import replace

import pytest
import torch
import transformers
from tiny_runs import EVAL, PAPER, RECIPE, RELEASED, TRAIN, Before, config, image_set, make_trainer, network
from torch import nn

from hf_kcd.data import KnowledgeDataset
from hf_kcd.training import DistillationTrainer, KCDConfig, KCDTrainerCallback


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "kdd"}, "'kd'"),
        ({"method_options": {"temprature": 2}}, "temperature"),
        ({"method_options": {"temperature": 0}}, "temperature is 0"),
        ({"method_options": "[1, 2]"}, "give a mapping"),
        *(({"num_train_epochs": n}, f"num_train_epochs is {n}: .*whole") for n in (2.5, 0, float("nan"))),
        ({"hub_token": "hf_abc"}, "hf auth login"),
        *(
            ({name: value}, f"{name} is .*: give a (finite|whole) number")
            for name in ("learning_rate", "momentum", "weight_decay", "max_grad_norm", "gradient_accumulation_steps")
            for value in (-1, float("nan"))
        ),
        ({"lr_schedule": "cosin"}, "'cosine'"),
        ({"lr_schedule": "cosine", "lr_decay_epochs": [3]}, r"lr_decay_epochs is \[3\].*cosine"),
        ({"lr_schedule": "constant", "lr_decay_rate": 0.2}, "lr_decay_rate is 0.2.*constant"),
        # Schedulers of transformers.
        ({"lr_scheduler_type": "cosin"}, "'cosine'"),
        *(
            ({"lr_scheduler_type": "cosine", name: value}, f"{name} is .*lr_scheduler_type='cosine'")
            for name, value in (("lr_schedule", "cosine"), ("warmup_epochs", 1), ("lr_decay_epochs", [3]))
        ),
        ({"warmup_steps": 10}, "warmup_steps is 10.*lr_scheduler_type.*warmup_epochs"),
        ({"lr_scheduler_kwargs": {"num_cycles": 2}}, "lr_scheduler_kwargs .*lr_scheduler_type"),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"cycles": 2}}, "'cycles'.*num_cycles"),
        ({"lr_scheduler_type": "linear", "lr_scheduler_kwargs": [2]}, "give a mapping"),
        ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 1}}, "lr_end"),
        ({"lr_scheduler_type": "inverse_sqrt", "lr_scheduler_kwargs": {"timescale": 0}}, "timescale"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "num_decay_steps"),
        ({"lr_scheduler_type": "constant", "warmup_steps": 5}, "no warm-up"),
        ({"lr_scheduler_type": "linear", "warmup_steps": 36}, "longer than the 36 steps"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "eval strategy"),
        (
            {"lr_scheduler_type": "greedy", "eval_strategy": "epoch", "lr_scheduler_kwargs": {"mode": "min"}},
            "mode is 'min'.*greater_is_better=True",
        ),
        # Optimizers.
        ({"optim": "sdg"}, "'sgd'"),
        ({"optim": "timm:adamW2"}, "'timm:adamw'"),
        ({"optim": "adamw_torch", "learning_rate": None}, "learning_rate is missing.*adamw_torch"),
        *(({"optim": name}, name) for name in ("lomo", "galore_adamw", "schedule_free_sgd", "timm:adahessian")),
        ({"optim": "lion_32bit"}, "install `bitsandbytes`"),
        ({"optim_args": "momentum"}, "name=value"),
        ({"optim_args": "momentun=0.8"}, "'momentum'"),
        ({"optim_args": "weight_decay=0.1"}, "option weight_decay"),
        ({"optim_args": "momentum=0.8", "momentum": 0.7}, "give it once"),
        ({"optim": "adamw_torch", "optim_args": "eps=1e-3"}, "'eps'"),
        ({"optim": "timm:adamw", "optim_args": "layer_decy=0.7"}, "layer_decy"),
        ({"optim": "timm:adamw", "optim_args": "layer_decay=2"}, "layer_decay is 2"),
        ({"optim": "timm:lion", "optim_args": "eps=1"}, "no eps"),
        ({"optim": "timm:adamw", "optim_args": "momentum=0.5"}, "no momentum"),
        ({"optim": "timm:adamw", "optim_args": "lr=0.5"}, "option learning_rate"),
        ({"optim": "timm:adamw", "optim_args": "layer_decay_min_scale=0.5"}, "only with layer_decay"),
        ({"optim": "timm:adamw", "optim_args": "filter_bias_and_bn=no"}, "'no': give true or false"),
        # Evaluations and logs.
        ({"include_for_metrics": ["inputs"]}, "include_for_metrics is .*compute_metrics too"),
        ({"include_for_metrics": ["input"], "compute_metrics": dict}, "'input'.*'inputs'"),
        ({"eval_delay": 3}, "eval_delay is 3.*an eval_strategy"),
        ({"trackio_space_id": "me/runs"}, "trackio_space_id is 'me/runs'.*report_to='trackio'"),
        ({"log_level": "warn"}, "'warn'.*'warning'"),
        ({"nesterov": True, "momentum": 0}, "Nesterov momentum requires"),
        ({"optim": "adamw_torch", "nesterov": True}, "nesterov is True.*adamw_torch"),
        ({"optim": "adagrad", "momentum": 0.8}, "momentum is 0.8.*adagrad"),
        ({"adam_beta1": 0.8}, "adam_beta1 is 0.8.*sgd"),
        ({"fp16": True}, "fp16 .*CPU would compute in float32"),
        ({"mask_mixing": False}, "mask_mixing is False.*no mask"),
        ({"method": "ce", "teacher_layers": [1]}, r"teacher_layers is \[1\].*no teacher"),
        ({"lr_decay_epochs": [3, 9]}, "inside the 6 epochs"),
        ({"warmup_epochs": 6}, "warmup_epochs is 6"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0"),
        # Networks and data that do not fit together.
        ({"teacher": None}, r"'kd' needs a teacher.*'ce'"),
        *(({who: lambda: network(num_classes=7)}, "classes differ: .* 7") for who in ("model", "teacher")),
        ({"eval_dataset": lambda: image_set(20, num_classes=7)}, "evaluation set 7"),
        ({"eval_dataset": lambda: KnowledgeDataset(EVAL, RECIPE)}, r"evaluation set .*training=True"),
        ({"train_dataset": TRAIN.remove_columns("label")}, "no label column"),
        ({"train_dataset": TRAIN.remove_columns("image")}, "no image column"),
        ({"train_dataset": TRAIN.select([])}, "no points"),
        ({"train_dataset": lambda: KnowledgeDataset(TRAIN, RECIPE, training=False)}, "training=False"),
        ({"train_dataset": None}, "train_dataset is missing"),
        ({"train_dataset": TRAIN.to_iterable_dataset()}, "streaming"),
        ({"train_dataset": [1, 2]}, "datasets.Dataset"),
        # Condensations that cannot be.
        ({"kcd": replace(PAPER, epochs_per_stage=0)}, "epochs_per_stage"),
        ({"kcd": KCDConfig.released_code(final_ratio=0.5, epochs_per_stage=6)}, "epochs_per_stage"),
        ({"kcd": PAPER, "callbacks": [KCDTrainerCallback()]}, "pass one"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises((ValueError, TypeError), match=message) as error:
        given = {k: v() if callable(v) else v for k, v in options.items()}
        make_trainer(tmp_path / "run", **given)
    assert "hf_abc" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        *(({"final_ratio": ratio}, f"final_ratio is {ratio}") for ratio in (0, 1.01, -0.5, float("nan"), "0.7")),
        ({"value": "entrpy"}, "'entropy'"),
        ({"shape": "exponent"}, "'exponential'"),
        ({"augmentation": "adaptiv"}, "'adaptive'"),
        ({"partners": "discard"}, "'discarded'"),
        ({"first_selection": "after_epoch"}, "'after_first_epoch'"),
        ({"max_perturbation": 1.5}, "max_perturbation is 1.5"),
        ({"cost_exponent": float("inf")}, "cost_exponent is inf"),
        ({"final_ration": 0.7}, "'final_ratio'"),
        # Switches that nothing reads.
        ({"value": "random", "cost_exponent": 0}, "cost_exponent is 0.*value='random'"),
        ({"value": "random", "online_recording": False}, "online_recording is False.*value='random'"),
        *(
            ({"augmentation": "none", name: value}, f"{name} is .*augmentation='none'")
            for name, value in (
                ("max_perturbation", 0.5),
                ("partners", "newly_discarded"),
                ("cumulative_mixing", True),
            )
        ),
    ],
)
def test_a_condensation_that_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        KCDConfig.from_dict(fields)


def test_other_objects_in_the_place_of_ours_are_refused(tmp_path):
    both = network()
    with pytest.raises(ValueError, match="same object"):
        make_trainer(tmp_path, model=both, teacher=both)
    with pytest.raises(TypeError, match="DistillationConfig"):
        DistillationTrainer(network(), None, transformers.TrainingArguments(str(tmp_path)), TRAIN)


def test_without_a_teacher_ce_trains_and_what_compares_with_a_teacher_is_refused(tmp_path):
    trainer = make_trainer(tmp_path, PAPER, method="ce", max_steps=2)
    trainer.train()
    assert trainer.teacher is None
    assert {"loss_ce"} == {key for key in trainer.state.log_history[0] if key.startswith("loss_")}
    with pytest.raises(ValueError, match=r"kd_divergence.*teacher"):
        make_trainer(tmp_path, replace(PAPER, value="kd_divergence"), method="ce").train()


def test_a_mask_that_does_not_fit_is_refused(tmp_path, finished):
    mask = finished("paper").trainer.knowledge_mask
    with pytest.raises(ValueError, match="leave out KCDTrainerCallback, or the mask"):
        make_trainer(tmp_path, PAPER, mask=mask)
    for other in (image_set(90), TRAIN.select(range(87, -1, -1)), image_set(88, seed=5)):
        with pytest.raises(ValueError, match="not about this data set"):
            make_trainer(tmp_path, mask=mask, train_dataset=KnowledgeDataset(other, RECIPE, seed=3))
    with pytest.raises(RuntimeError, match=r"train\(\) first"):
        _ = make_trainer(tmp_path, PAPER).knowledge_mask
    with pytest.raises(RuntimeError, match="KCDTrainerCallback"):
        _ = make_trainer(tmp_path).knowledge_mask


def test_the_callback_in_a_plain_trainer_says_where_it_belongs(tmp_path):
    class Classifier(nn.Linear):
        def forward(self, x, labels):
            return {"loss": super().forward(x).sum()}

    args = transformers.TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True)
    data = [{"x": torch.zeros(3), "labels": 0}] * 8
    plain = transformers.Trainer(Classifier(3, 2), args, train_dataset=data, callbacks=[KCDTrainerCallback()])
    with pytest.raises(RuntimeError, match=r"point ids.*logits.*callbacks of hf_kcd\.DistillationTrainer"):
        plain.train()


def test_mixing_into_images_that_are_not_in_memory_is_refused_at_once(tmp_path):
    decoded = KnowledgeDataset(TRAIN, RECIPE, memory_budget=0)
    with pytest.raises(ValueError, match="cumulative_mixing rewrites 8-bit images in memory"):
        make_trainer(tmp_path / "run", RELEASED, train_dataset=decoded)
    assert not (tmp_path / "run" / "stages").exists()


def test_a_loader_that_does_not_follow_the_schedule_is_found(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train_dataset.select(range(40))
    with pytest.raises(RuntimeError, match="split_batches, dispatch_batches"):
        trainer.train()


def limit_files(size: int) -> None:
    """No file can grow over a size: a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    """Sizes of the files of a checkpoint."""
    folder = tmp_path_factory.mktemp("whole")
    make_trainer(folder, PAPER, save_strategy="steps", save_steps=8, max_steps=8).train()
    return {path.name: path.stat().st_size for path in (folder / "checkpoint-8").iterdir()}


@pytest.mark.parametrize("fails_at", ["run.json", "model.safetensors", "optimizer.pt"])
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, sizes, fails_at):
    # Room for every other file, half way to the one that fails.
    *_, others, largest = sorted(sizes.values())
    assert sizes["optimizer.pt"] == largest > others
    limits = {"run.json": 100, "optimizer.pt": (others + largest) // 2}
    limit = limits.get(fails_at, sizes[fails_at] - 1)
    # Without a log: what is printed goes to files too, while a test runs.
    options = {"save_strategy": "steps", "save_steps": 5, "logging_strategy": "no"}
    trainer = make_trainer(tmp_path, PAPER, [Before(9, lambda: limit_files(limit))], **options)
    try:
        with pytest.raises(OSError, match=r"checkpoint-10 could not be written and was removed: .*resume"):
            trainer.train()
    finally:
        limit_files(resource.RLIM_INFINITY)
    assert [path.name for path in tmp_path.glob("*checkpoint*")] == ["checkpoint-5"]
    resumed = make_trainer(tmp_path, PAPER, max_steps=6)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6


def test_a_folder_that_became_a_file_is_reported(tmp_path):
    out = tmp_path / "run"

    def replace_folder():
        shutil.rmtree(out, ignore_errors=True)
        out.write_text("a file")

    trainer = make_trainer(out, None, [Before(4, replace_folder)], save_strategy="steps", save_steps=5)
    with pytest.raises(OSError, match=r"checkpoint-5 could not be written.*Not a directory.*Choose a folder that can"):
        trainer.train()
    assert out.read_text() == "a file"


def test_config_defaults_are_the_fields_recipe(tmp_path):
    args = config(tmp_path, num_train_epochs=240)
    assert (args.learning_rate, args.momentum, args.weight_decay, args.max_grad_norm) == (0.05, 0.9, 5e-4, 0)
    assert args.lr_decay_epochs == [150, 180, 210] and args.lr_decay_rate == 0.1
    # 150, 180 and 210 of 240 are 5/8, 6/8 and 7/8.
    assert config(tmp_path, num_train_epochs=12).lr_decay_epochs == [7.5, 9, 10.5]
    trainer = make_trainer(tmp_path)
    trainer.create_optimizer()
    groups = [group for group in trainer.optimizer.param_groups if group["params"]]
    assert [(group["momentum"], group["weight_decay"], group["nesterov"]) for group in groups] == [(0.9, 5e-4, False)]
    assert len(groups[0]["params"]) == len(list(trainer.student.parameters()))
