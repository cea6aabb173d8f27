"""An epoch that shrinks has its own number of steps, its epoch fraction, its learning rate and its points."""

import math
from itertools import accumulate

import pytest
import torch
from tiny_runs import EVAL, PAPER, RECIPE, Watch, assert_same_end, dropout_network, image_set, losses, run_training

from hf_kcd.data import KnowledgeDataset

SIZES = {"paper": [88, 69, 69, 55, 55, 44], "released": [88, 88, 74, 74, 60, 60]}
ENDS = [6, 11, 16, 20, 24, 27]  # The paper's last step of every epoch.


def batches(size: int, drop_last: bool = False) -> int:
    return size // 16 if drop_last else math.ceil(size / 16)


@pytest.mark.parametrize(
    ("preset", "accumulation", "drop_last"),
    [("paper", 1, False), ("released", 1, False), ("paper", 3, True), ("released", 3, False)],
)
def test_steps_epochs_points_and_rates_follow_the_selection(tmp_path, finished, preset, accumulation, drop_last):
    if (accumulation, drop_last) == (1, False):
        trainer, watch = finished(preset).trainer, finished(preset).watch
    else:
        watch, kcd = Watch(), finished(preset).trainer.kcd.config
        options = {"gradient_accumulation_steps": accumulation, "dataloader_drop_last": drop_last}
        trainer = run_training(tmp_path, kcd, [watch], method="spy", lr_decay_epochs=[2, 4], **options)
    per_epoch = [batches(size, drop_last) for size in SIZES[preset]]
    updates = [math.ceil(count / accumulation) for count in per_epoch]
    assert trainer.state.max_steps == trainer.state.global_step == sum(updates)
    assert watch.ends == list(zip(accumulate(updates), range(1, 7), strict=True))
    expected = [
        epoch + min((update + 1) * accumulation, count) / count
        for epoch, count in enumerate(per_epoch)
        for update in range(math.ceil(count / accumulation))
    ]
    assert watch.epochs == pytest.approx(expected, abs=1e-12)
    assert len(trainer.method.steps) == sum(per_epoch)
    if preset == "paper" or accumulation == 3:  # Decays after epochs 2 and 4 fall exactly between two epochs.
        rates = [0.05 * rate for rate, n in zip([1, 1, 0.1, 0.1, 0.01, 0.01], updates, strict=True) for _ in range(n)]
        assert watch.rates == pytest.approx(rates, rel=1e-12)
    drawn = trainer.method.by_epoch("point_ids")
    assert [len(ids) for ids in drawn] == [min(s, c * 16) for s, c in zip(SIZES[preset], per_epoch, strict=True)]
    assert all(len(ids.unique()) == len(ids) for ids in drawn)


def test_cosine_is_a_function_of_epochs_and_max_steps_a_cap_alone(tmp_path):
    runs = {}
    for max_steps in (10_000, 7, 11):
        watch = Watch()
        options = {"lr_schedule": "cosine", "warmup_epochs": 1.5, "max_steps": max_steps}
        runs[max_steps] = run_training(tmp_path / str(max_steps), PAPER, [watch], **options), watch
    trainer, whole = runs[10_000]
    # A cap beyond the end changes nothing.
    assert trainer.state.global_step == trainer.state.max_steps == 27 and trainer.state.epoch == 6.0
    expected = []
    for epoch, size in enumerate(SIZES["paper"]):
        for step in range(batches(size)):
            time = epoch + step / batches(size)
            progress = max(0, time - 1.5) / 4.5
            expected.append(0.05 * min(1, time / 1.5) * (1 + math.cos(math.pi * progress)) / 2)
    assert whole.rates == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert set(trainer.lr_scheduler.get_last_lr()) == {0.0}
    for max_steps in (7, 11):
        capped, watch = runs[max_steps]
        assert capped.state.global_step == capped.state.max_steps == max_steps
        assert capped.state.num_train_epochs == 6
        assert (watch.rates, watch.epochs) == (whole.rates[:max_steps], whole.epochs[:max_steps])


def test_logging_evaluation_and_saving_by_epoch(tmp_path):
    options = dict.fromkeys(("eval_strategy", "logging_strategy", "save_strategy"), "epoch")
    options |= {"save_total_limit": None, "load_best_model_at_end": True}
    trainer = run_training(tmp_path, PAPER, eval_dataset=EVAL, **options)
    log, ends = trainer.state.log_history, list(zip(ENDS, range(1, 7), strict=True))
    for name in ("eval_top1", "loss"):
        assert [(line["step"], line["epoch"]) for line in log if name in line] == ends
    assert sorted(int(folder.name.split("-")[1]) for folder in tmp_path.glob("checkpoint-*")) == ENDS
    best = max(line["eval_top1"] for line in log if "eval_top1" in line)
    assert trainer.state.best_metric == best == trainer.evaluate()["eval_top1"]


def test_logging_evaluating_and_saving_by_steps_leave_no_trace_in_the_training(tmp_path, finished):
    strategies = {"eval_strategy": "steps", "eval_steps": 5, "save_strategy": "steps", "save_steps": 10}
    options = {"logging_steps": 4, "save_total_limit": None, "lr_decay_epochs": [2, 4], **strategies}
    trainer = run_training(tmp_path, PAPER, method="spy", eval_dataset=EVAL, **options)
    # Newer versions of transformers evaluate after the last step, too.
    assert [line["step"] for line in trainer.state.log_history if "eval_top1" in line][:5] == [5, 10, 15, 20, 25]
    assert [line["step"] for line in losses(trainer)] == [4, 8, 12, 16, 20, 24]
    assert sorted(int(folder.name.split("-")[1]) for folder in tmp_path.glob("checkpoint-*")) == [10, 20, 27]
    plain = finished("paper").trainer
    assert_same_end(plain, trainer)
    # A logged loss is the mean over its steps.
    for name in ("loss", "loss_ce", "loss_kd"):
        single = [line[name] for line in losses(plain)]
        means = [sum(single[i : i + 4]) / 4 for i in range(0, 24, 4)]
        assert [line[name] for line in losses(trainer)] == pytest.approx(means, rel=1e-5)


def test_the_log_has_parts_kept_ratio_stage_and_cost(finished):
    lines = losses(finished("paper").trainer)
    assert all(math.isclose(line["loss"], line["loss_ce"] + line["loss_kd"], rel_tol=1e-5) for line in lines)
    ends = [lines[step - 1] for step in ENDS]
    assert [line["kept"] for line in ends] == pytest.approx([size / 88 for size in SIZES["paper"]])
    assert [line.get("stage", 0) for line in ends] == [0, 1, 1, 2, 2, 3]
    so_far = [points / (88 * 6) for points in accumulate(SIZES["paper"])]
    assert [line["cost"] for line in ends] == pytest.approx(so_far)
    # The Trainer's count of operations would be that of another training.
    assert finished("paper").trainer.state.total_flos == 0


def test_an_update_has_the_mean_gradient_of_its_batches_also_where_fewer_are_left(tmp_path):
    # 80 points: 5 batches of 16, by threes an update of 48 and one of 32, as batches of 48 have them.
    data, weights = image_set(80), []
    for batch, accumulation in ((16, 3), (48, 1)):
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        options |= {"num_train_epochs": 1, "lr_schedule": "constant", "model": dropout_network(rate=0.0)}
        dataset = KnowledgeDataset(data, RECIPE, seed=3)
        trainer = run_training(tmp_path / str(batch), train_dataset=dataset, **options)
        assert trainer.state.global_step == 2
        weights.append(torch.cat([parameter.detach().flatten() for parameter in trainer.student.parameters()]))
    assert (weights[0] - weights[1]).abs().max() < 2e-6
