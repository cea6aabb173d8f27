"""The joint on which everything hangs: an epoch that shrinks has its steps, its fraction, its learning rate and its points."""

import math

import pytest
import torch
from distillation_runs import (
    BATCH,
    EVAL,
    NUM_EPOCHS,
    NUM_POINTS,
    PAPER,
    RECIPE,
    RELEASED,
    dropout_network,
    image_set,
    losses,
    make_trainer,
)
from transformers import TrainerCallback

from hf_kcd.data import KnowledgeDataset

# floor(88 * 0.5^(c/3)) after c selections, before epochs 1, 3 and 5; 88 - 14 c before epochs 2 and 4. By hand.
SIZES = {"paper": [88, 69, 69, 55, 55, 44], "released": [88, 88, 74, 74, 60, 60]}
CONFIGS = {"paper": PAPER, "released": RELEASED}


def batches(size: int, drop_last: bool) -> int:
    return size // BATCH if drop_last else math.ceil(size / BATCH)


class Watch(TrainerCallback):
    """Notes step, epoch and learning rate as each update finds them."""

    def __init__(self):
        self.rates, self.epochs, self.totals, self.ends = [], [], [], []

    def on_train_begin(self, args, state, control, **kwargs):
        self.totals.append(state.max_steps)

    def on_pre_optimizer_step(self, args, state, control, optimizer, **kwargs):
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_step_end(self, args, state, control, **kwargs):
        self.epochs.append(state.epoch)

    def on_epoch_end(self, args, state, control, **kwargs):
        self.ends.append((state.global_step, state.epoch))


@pytest.mark.parametrize("preset", ["paper", "released"])
@pytest.mark.parametrize(("accumulation", "drop_last"), [(1, False), (3, False), (1, True), (3, True)])
def test_steps_epochs_and_points_follow_the_selection(tmp_path, preset, accumulation, drop_last):
    watch = Watch()
    trainer = make_trainer(
        tmp_path,
        CONFIGS[preset],
        [watch],
        method="spy",
        gradient_accumulation_steps=accumulation,
        dataloader_drop_last=drop_last,
    )
    trainer.train()
    per_epoch = [batches(size, drop_last) for size in SIZES[preset]]
    updates = [math.ceil(count / accumulation) for count in per_epoch]
    assert trainer.state.max_steps == trainer.state.global_step == sum(updates) == watch.totals[0]
    assert [step for step, _ in watch.ends] == [sum(updates[: e + 1]) for e in range(NUM_EPOCHS)]
    assert [epoch for _, epoch in watch.ends] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    expected = [
        epoch + min((update + 1) * accumulation, count) / count
        for epoch, count in enumerate(per_epoch)
        for update in range(math.ceil(count / accumulation))
    ]
    assert watch.epochs == pytest.approx(expected, abs=1e-12)
    assert len(trainer.method.steps) == sum(per_epoch)

    drawn = trainer.method.by_epoch("point_ids")
    assert [len(ids) for ids in drawn] == [min(s, c * BATCH) for s, c in zip(SIZES[preset], per_epoch, strict=True)]
    assert all(len(ids.unique()) == len(ids) for ids in drawn)
    assert drawn[-1].unique().numel() == len(drawn[-1])


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_every_epoch_draws_exactly_the_selection(tmp_path, preset):
    selections = []

    class Selections(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if int(state.epoch or 0) == len(selections):
                selections.append(trainer.train_dataset.selected)

    trainer = make_trainer(tmp_path, CONFIGS[preset], [Selections()], method="spy", dataloader_num_workers=0)
    trainer.train()
    drawn = trainer.method.by_epoch("point_ids")
    for epoch in range(NUM_EPOCHS):
        assert torch.equal(drawn[epoch].sort().values, selections[epoch])
        assert len(selections[epoch]) == SIZES[preset][epoch]
    assert not torch.equal(drawn[1], drawn[2]), "one selection, drawn in one order twice"


@pytest.mark.parametrize("accumulation", [1, 3])
def test_multistep_rates_switch_exactly_between_epochs(tmp_path, accumulation):
    watch = Watch()
    options = {"lr_decay_epochs": [2, 4], "gradient_accumulation_steps": accumulation}
    make_trainer(tmp_path, PAPER, [watch], **options).train()
    updates = [math.ceil(batches(size, False) / accumulation) for size in SIZES["paper"]]
    expected = [0.05 * rate for rate, n in zip([1, 1, 0.1, 0.1, 0.01, 0.01], updates, strict=True) for _ in range(n)]
    assert watch.rates == pytest.approx(expected, rel=1e-12)


def test_cosine_after_warmup_is_a_function_of_epochs(tmp_path):
    watch = Watch()
    make_trainer(tmp_path, PAPER, [watch], lr_schedule="cosine", warmup_epochs=1.5).train()
    expected = []
    for epoch, size in enumerate(SIZES["paper"]):
        for step in range(batches(size, False)):
            time = epoch + step / batches(size, False)
            progress = max(0, time - 1.5) / 4.5
            expected.append(0.05 * min(1, time / 1.5) * (1 + math.cos(math.pi * progress)) / 2)
    assert watch.rates == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert watch.rates[0] == 0 and watch.rates[-1] < 0.05 * 0.03


def test_cosine_ends_at_zero(tmp_path):
    trainer = make_trainer(tmp_path, PAPER, lr_schedule="cosine")
    trainer.train()
    assert set(trainer.lr_scheduler.get_last_lr()) == {0.0}


def test_default_decays_are_those_of_the_field_scaled(tmp_path):
    # 150, 180, 210 of 240 are 5/8, 6/8 and 7/8.
    assert make_trainer(tmp_path, num_train_epochs=240).args.lr_decay_epochs == [150, 180, 210]
    assert make_trainer(tmp_path, num_train_epochs=12).args.lr_decay_epochs == [7.5, 9, 10.5]


@pytest.mark.parametrize("max_steps", [7, 11, 12])
def test_max_steps_is_a_cap_and_nothing_else(tmp_path, max_steps):
    whole, capped = Watch(), Watch()
    make_trainer(tmp_path / "whole", PAPER, [whole], lr_schedule="cosine").train()
    trainer = make_trainer(tmp_path / "capped", PAPER, [capped], lr_schedule="cosine", max_steps=max_steps)
    trainer.train()
    assert trainer.state.global_step == trainer.state.max_steps == max_steps
    assert trainer.state.num_train_epochs == NUM_EPOCHS
    assert capped.rates == whole.rates[:max_steps]
    assert capped.epochs == whole.epochs[:max_steps]


def test_max_steps_beyond_the_end_changes_nothing(tmp_path):
    trainer = make_trainer(tmp_path, PAPER, max_steps=10_000)
    trainer.train()
    assert trainer.state.global_step == trainer.state.max_steps == 6 + 5 + 5 + 4 + 4 + 3
    assert trainer.state.epoch == 6.0


def test_logging_evaluation_and_saving_by_epoch(tmp_path):
    trainer = make_trainer(
        tmp_path,
        PAPER,
        eval_dataset=EVAL,
        eval_strategy="epoch",
        logging_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=None,
        load_best_model_at_end=True,
    )
    trainer.train()
    ends = [6, 11, 16, 20, 24, 27]
    log = trainer.state.log_history
    assert [(line["step"], line["epoch"]) for line in log if "eval_top1" in line] == list(
        zip(ends, range(1, 7), strict=True)
    )
    assert [(line["step"], line["epoch"]) for line in log if "loss" in line] == list(
        zip(ends, range(1, 7), strict=True)
    )
    saved = sorted(int(folder.name.split("-")[1]) for folder in tmp_path.glob("checkpoint-*"))
    assert saved == ends
    best = max(line["eval_top1"] for line in log if "eval_top1" in line)
    assert trainer.state.best_metric == best == trainer.evaluate()["eval_top1"]


def test_logging_evaluation_and_saving_by_steps(tmp_path):
    trainer = make_trainer(
        tmp_path,
        PAPER,
        eval_dataset=EVAL,
        eval_strategy="steps",
        eval_steps=5,
        logging_steps=4,
        save_strategy="steps",
        save_steps=10,
        save_total_limit=None,
    )
    trainer.train()
    log = trainer.state.log_history
    # Newer versions of transformers evaluate after the last step, too.
    assert [line["step"] for line in log if "eval_top1" in line][:5] == [5, 10, 15, 20, 25]
    assert [line["step"] for line in losses(trainer)] == [4, 8, 12, 16, 20, 24]
    saved = sorted(int(folder.name.split("-")[1]) for folder in tmp_path.glob("checkpoint-*"))
    assert saved == [10, 20, 27]


def test_the_log_has_parts_kept_ratio_stage_and_cost(tmp_path):
    trainer = make_trainer(tmp_path, PAPER)
    trainer.train()
    lines = losses(trainer)
    assert all(math.isclose(line["loss"], line["loss_ce"] + line["loss_kd"], rel_tol=1e-5) for line in lines)
    ends = [lines[step - 1] for step in (6, 11, 16, 20, 24, 27)]
    assert [line["kept"] for line in ends] == pytest.approx([size / NUM_POINTS for size in SIZES["paper"]])
    assert [line.get("stage", 0) for line in ends] == [0, 1, 1, 2, 2, 3]
    so_far = [sum(SIZES["paper"][: e + 1]) / (NUM_POINTS * NUM_EPOCHS) for e in range(NUM_EPOCHS)]
    assert [line["cost"] for line in ends] == pytest.approx(so_far)


def test_a_logged_loss_is_the_mean_over_its_steps(tmp_path):
    one, four = (make_trainer(tmp_path / str(every), PAPER, logging_steps=every) for every in (1, 4))
    one.train(), four.train()
    for name in ("loss", "loss_ce", "loss_kd"):
        single = [line[name] for line in losses(one)]
        means = [sum(single[i : i + 4]) / 4 for i in range(0, 24, 4)]
        assert [line[name] for line in losses(four)] == pytest.approx(means, rel=1e-5)


def test_an_update_has_the_mean_gradient_of_its_batches_also_where_fewer_are_left(tmp_path):
    # 80 points: 5 batches of 16, by threes an update of 48 and one of 32, as batches of 48 have them.
    data, weights = image_set(80), []
    for batch, accumulation in ((16, 3), (48, 1)):
        trainer = make_trainer(
            tmp_path / str(batch),
            model=dropout_network(rate=0.0),
            train_dataset=KnowledgeDataset(data, RECIPE, seed=3),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            num_train_epochs=1,
            lr_schedule="constant",
        )
        trainer.train()
        assert trainer.state.global_step == 2
        weights.append(torch.cat([parameter.detach().flatten() for parameter in trainer.student.parameters()]))
    assert (weights[0] - weights[1]).abs().max() < 2e-6
