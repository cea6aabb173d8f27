"""What a run condenses, against the paper's equations in NumPy on the logits of its own steps."""

import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from distillation_runs import EVAL, NUM_POINTS, PAPER, RELEASED, TRAIN, make_trainer
from transformers import TrainerCallback

from hf_kcd import KnowledgeMask

RUNS = {
    "paper": PAPER,
    "released_code": RELEASED,
    "random": replace(PAPER, value="random"),
    "latest_epoch_only": replace(PAPER, online_recording=False),
    "cost_unaware": replace(PAPER, cost_exponent=0.0),
    "strong_cost": replace(PAPER, cost_exponent=0.8),
    "no_mixing": replace(PAPER, augmentation="none"),
    "fixed_mixing": replace(PAPER, augmentation="fixed", max_perturbation=0.2),
    "fewer_kept_than_discarded": replace(PAPER, final_ratio=0.05),
    "cross_entropy": replace(PAPER, value="cross_entropy"),
    "kd_divergence": replace(PAPER, value="kd_divergence"),
}


def log_softmax(logits: torch.Tensor) -> np.ndarray:
    rows = logits.double().numpy()
    rows = rows - rows.max(1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(1, keepdims=True))


def values_of(step: dict, value: str) -> np.ndarray:
    student, teacher = log_softmax(step["logits"]), log_softmax(step["teacher_logits"])
    if value == "cross_entropy":
        return -student[np.arange(len(student)), step["labels"].numpy()]
    if value == "kd_divergence":
        return (np.exp(teacher) * (teacher - student)).sum(1)
    return -(np.exp(student) * student).sum(1)


class ByHand:
    """Algorithm 1 on the steps of a run: `stages` holds kept, partner and perturbation of every selection."""

    def __init__(self, kcd, steps: list[dict], seed: int = 3):
        self.kcd, self.value, self.frequency = kcd, np.zeros(NUM_POINTS), np.zeros(NUM_POINTS, dtype=np.int64)
        self.stages, num_kept = [], NUM_POINTS
        self.bank = np.stack([np.asarray(image) for image in TRAIN["image"]])
        for epoch in range(6):
            for step in steps:
                if int(step["epoch"]) == epoch:
                    self.record(step["point_ids"].numpy(), values_of(step, kcd.value))
            selections = len(self.stages) + 1
            if kcd.first_selection == "after_first_epoch":
                selects, size = epoch in (0, 2, 4), int(NUM_POINTS * kcd.final_ratio ** (selections / 3))
            else:
                selects, size = (
                    epoch in (1, 3, 5),
                    NUM_POINTS - selections * int(NUM_POINTS * (1 - kcd.final_ratio) / 3),
                )
            if selects:
                self.select(size, num_kept, np.random.Generator(np.random.PCG64([seed, epoch + 1])))
                num_kept = size

    def record(self, ids, values):
        self.frequency[ids] += 1
        count = self.frequency[ids]
        mean = (count - 1) / count * self.value[ids] + values / count
        self.value[ids] = mean if self.kcd.online_recording else values

    def select(self, size, num_kept, generator):
        scores = self.value * np.maximum(self.frequency, 1) ** self.kcd.cost_exponent
        scores[self.frequency == 0] = np.inf
        if self.kcd.value == "random":
            scores = generator.random(NUM_POINTS)
        order = np.argsort(-scores, kind="stable")
        kept, discarded = order[:size], order[size:]
        low = min(size, (num_kept if self.kcd.partners == "newly_discarded" else NUM_POINTS) - size)
        partner, perturbation = np.full(size, -1), np.zeros(size)
        if self.kcd.augmentation != "none":
            for k in range(low):
                place = size - low + k
                partner[place] = discarded[k]
                share = k / low if self.kcd.augmentation == "adaptive" else 1
                perturbation[place] = self.kcd.max_perturbation * share
        self.stages.append((kept, partner, perturbation))
        if self.kcd.cumulative_mixing:
            before, mixed = self.bank.copy(), partner >= 0
            share = perturbation[mixed].astype(np.float32)[:, None, None, None]
            blended = (1 - share) * before[kept[mixed]] + share * before[partner[mixed]]
            self.bank[kept[mixed]] = blended.astype(np.uint8)


@pytest.mark.parametrize("run", RUNS)
def test_every_stage_is_that_of_the_equations(tmp_path, run):
    kcd = RUNS[run]
    trainer = make_trainer(tmp_path, kcd, method="spy")
    trainer.train()
    expected = ByHand(kcd, trainer.method.steps)
    record = trainer.kcd.condenser.record
    np.testing.assert_array_equal(record.frequency.numpy(), expected.frequency)
    np.testing.assert_allclose(record.value.numpy(), expected.value, rtol=1e-4, atol=1e-6)

    stages = [KnowledgeMask.from_pretrained(folder) for folder in sorted((tmp_path / "stages").iterdir())]
    assert [mask.stage for mask in stages] == [1, 2, 3] and len(expected.stages) == 3
    for mask, (kept, partner, perturbation) in zip(stages, expected.stages, strict=True):
        np.testing.assert_array_equal(mask.kept.numpy(), kept)
        np.testing.assert_array_equal(mask.partner.numpy(), partner)
        np.testing.assert_allclose(mask.perturbation.numpy(), perturbation, rtol=1e-6)
    assert trainer.knowledge_mask.hamming_distance(stages[-1]) == 0

    # What the epochs were given is what was selected for them.
    first = 1 if kcd.first_selection == "after_first_epoch" else 2
    ids, partners, shares = (trainer.method.by_epoch(name) for name in ("point_ids", "partner_ids", "perturbation"))
    for epoch in range(first, 6):
        kept, partner, perturbation = expected.stages[(epoch - first) // 2]
        order = np.argsort(kept)
        drawn = ids[epoch].argsort()
        np.testing.assert_array_equal(ids[epoch][drawn].numpy(), kept[order])
        if not kcd.cumulative_mixing:
            np.testing.assert_array_equal(partners[epoch][drawn].numpy(), partner[order])
            np.testing.assert_allclose(shares[epoch][drawn].numpy(), perturbation[order], rtol=1e-6)
        else:
            assert (partners[epoch] == -1).all()
    bank = np.stack([trainer.train_dataset.image(point) for point in range(NUM_POINTS)])
    np.testing.assert_allclose(bank, expected.bank, atol=0 if not kcd.cumulative_mixing else 1)


def test_every_kept_point_is_mixed_where_more_are_discarded(tmp_path):
    trainer = make_trainer(tmp_path, RUNS["fewer_kept_than_discarded"])
    trainer.train()
    mask = trainer.knowledge_mask
    assert len(mask.kept) == 4 and (mask.partner >= 0).all()
    assert mask.perturbation.tolist() == pytest.approx([0.0, 0.075, 0.15, 0.225])


@pytest.mark.parametrize("value", ["entropy", "random"])
def test_a_dropped_point_stays_ranked_and_can_return(tmp_path, value):
    trainer = make_trainer(tmp_path, replace(PAPER, value=value, epochs_per_stage=1, cost_exponent=-0.9))
    trainer.train()
    kept = [KnowledgeMask.from_pretrained(folder).kept_mask for folder in sorted((tmp_path / "stages").iterdir())]
    returned = [(~before & after).any() for before, after in pairwise(kept)]
    assert any(returned)


def test_points_that_no_epoch_has_shown_get_their_turn(tmp_path):
    trainer = make_trainer(tmp_path, PAPER, method="spy", dataloader_drop_last=True)
    trainer.train()
    unseen = set(range(NUM_POINTS)) - set(trainer.method.by_epoch("point_ids")[0].tolist())
    assert len(unseen) == 8
    first = KnowledgeMask.from_pretrained(tmp_path / "stages" / "stage-01")
    assert unseen == set(first.kept[:8].tolist())
    assert (first.frequency[first.kept[:8]] == 0).all()


@pytest.mark.parametrize(("kcd", "sizes"), [(PAPER, [88, 69, 69, 55, 55, 44]), (RELEASED, [88, 88, 74, 74, 60, 60])])
def test_the_cost_paid_is_the_cost_planned(tmp_path, kcd, sizes):
    trainer = make_trainer(tmp_path, kcd, gradient_accumulation_steps=2, dataloader_num_workers=0)
    trainer.train()
    assert trainer.cost.points == sizes
    planned = sum(sizes) / (88 * 6)
    assert trainer.cost.relative_cost == trainer.schedule.relative_cost == pytest.approx(planned, rel=1e-12)
    assert all(seconds > 0 for seconds in trainer.cost.seconds)
    assert trainer.knowledge_mask.schedule["sizes"] == sizes
    assert trainer.knowledge_mask.schedule["relative_cost"] == pytest.approx(planned, rel=1e-12)


def test_seconds_of_training_leave_out_evaluating_and_saving(tmp_path):
    class Slow(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            time.sleep(0.01)

    def slow_metrics(prediction):
        time.sleep(0.3)
        return {"top1": 0.0}

    options = {
        "eval_dataset": EVAL,
        "eval_strategy": "epoch",
        "compute_metrics": slow_metrics,
        "save_strategy": "epoch",
    }
    trainer = make_trainer(tmp_path, PAPER, [Slow()], num_train_epochs=4, lr_decay_epochs=[3], **options)
    started = time.perf_counter()
    trainer.train()
    elapsed = time.perf_counter() - started
    steps = [trainer.schedule.updates(epoch) for epoch in range(4)]
    for seconds, count in zip(trainer.cost.seconds, steps, strict=True):
        assert seconds > 0.01 * count
    assert sum(trainer.cost.seconds) < elapsed - 4 * 0.3
