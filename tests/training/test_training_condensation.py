"""What a run condenses, against the paper's equations in NumPy on the logits of its own steps, and what it costs."""

import time

import numpy as np
import pytest
import torch
from condensation.algorithm_by_hand import ByHand
from tiny_runs import EVAL, NUM_EPOCHS, PAPER, RELEASED, TRAIN, dropout_network, make_trainer, network, run_training
from transformers import TrainerCallback

from hf_kcd import KnowledgeMask
from hf_kcd.condensation import KnowledgeCondenser

# floor(88 * 0.5^(c/3)) after c selections, before epochs 1, 3 and 5; 88 - 14 c before epochs 2 and 4. By hand.
SIZES = {"paper": [88, 69, 69, 55, 55, 44], "released": [88, 88, 74, 74, 60, 60]}


def mixed_images(selections: list) -> np.ndarray:
    """The 8-bit images after the released code has mixed every selection into them for good."""
    bank = np.stack([np.asarray(image) for image in TRAIN["image"]])
    for kept, partner, perturbation in selections:
        before, mixed = bank.copy(), partner >= 0
        share = perturbation[mixed].astype(np.float32)[:, None, None, None]
        blended = (1 - share) * before[kept[mixed]] + share * before[partner[mixed]]
        bank[kept[mixed]] = blended.astype(np.uint8)
    return bank


@pytest.mark.parametrize("run", ["paper", "released", "random", "cross_entropy", "kd_divergence"])
def test_every_stage_is_that_of_the_equations_and_of_a_condenser_alone(finished, run):
    trainer, folder, watch = (getattr(finished(run), name) for name in ("trainer", "folder", "watch"))
    kcd = trainer.kcd.config
    by_hand = ByHand(kcd, 88, NUM_EPOCHS, seed=3)
    # The same logits in a loop of one's own.
    alone = KnowledgeCondenser(kcd, 88, NUM_EPOCHS, seed=3, dataset=trainer.train_dataset.identity)
    for epoch in range(NUM_EPOCHS):
        for step in (step for step in trainer.method.steps if int(step["epoch"]) == epoch):
            batch = [step[name] for name in ("point_ids", "logits", "teacher_logits", "labels")]
            by_hand.observe(*batch), alone.observe(*batch)
        by_hand.end_epoch(), alone.end_epoch()
    record = trainer.kcd.condenser.record
    np.testing.assert_array_equal(record.frequency.numpy(), by_hand.frequency)
    np.testing.assert_allclose(record.value.numpy(), by_hand.value, rtol=1e-4, atol=1e-6)
    for name in ("kept", "partner", "perturbation", "value", "frequency"):
        assert torch.equal(getattr(trainer.knowledge_mask, name), getattr(alone.mask(), name)), name

    stages = [KnowledgeMask.from_pretrained(path) for path in sorted((folder / "stages").iterdir())]
    assert [mask.stage for mask in stages] == [1, 2, 3]
    for mask, (kept, partner, perturbation) in zip(stages, by_hand.selections, strict=True):
        np.testing.assert_array_equal(mask.kept.numpy(), kept)
        np.testing.assert_array_equal(mask.partner.numpy(), partner)
        np.testing.assert_allclose(mask.perturbation.numpy(), perturbation, rtol=1e-6)
    assert trainer.knowledge_mask.hamming_distance(stages[-1]) == 0

    # Every epoch draws what was selected for it, each point once, with its partner and share.
    first = 1 if kcd.first_selection == "after_first_epoch" else 2
    ids, partners, shares = (trainer.method.by_epoch(name) for name in ("point_ids", "partner_ids", "perturbation"))
    for epoch in range(NUM_EPOCHS):
        drawn = ids[epoch].argsort()
        assert torch.equal(ids[epoch][drawn], watch.selected[epoch])
        if epoch < first:
            assert len(drawn) == 88
            continue
        kept, partner, perturbation = by_hand.selections[(epoch - first) // 2]
        order = np.argsort(kept)
        np.testing.assert_array_equal(ids[epoch][drawn].numpy(), kept[order])
        if kcd.cumulative_mixing:
            partner, perturbation = np.full_like(partner, -1), np.zeros_like(perturbation)
        np.testing.assert_array_equal(partners[epoch][drawn].numpy(), partner[order])
        np.testing.assert_allclose(shares[epoch][drawn].numpy(), perturbation[order], rtol=1e-6)
    assert not torch.equal(ids[first], ids[first + 1]), "one selection is drawn in another order in every epoch"
    bank = np.stack([trainer.train_dataset.image(point) for point in range(88)])
    expected = mixed_images(by_hand.selections if kcd.cumulative_mixing else [])
    np.testing.assert_allclose(bank, expected, atol=1 if kcd.cumulative_mixing else 0)


def test_points_that_no_epoch_has_shown_get_their_turn(tmp_path):
    options = {"dataloader_drop_last": True, "num_train_epochs": 3, "lr_decay_epochs": [1]}
    trainer = run_training(tmp_path, PAPER, method="spy", **options)
    unseen = set(range(88)) - set(trainer.method.by_epoch("point_ids")[0].tolist())
    assert len(unseen) == 8
    first = KnowledgeMask.from_pretrained(tmp_path / "stages" / "stage-01")
    assert unseen == set(first.kept[:8].tolist()) and (first.frequency[first.kept[:8]] == 0).all()


@pytest.mark.parametrize("run", SIZES)
def test_the_cost_paid_is_the_cost_planned(finished, run):
    trainer, sizes = finished(run).trainer, SIZES[run]
    assert trainer.cost.points == sizes
    planned = pytest.approx(sum(sizes) / (88 * 6), rel=1e-12)
    assert trainer.cost.relative_cost == trainer.schedule.relative_cost == planned
    assert all(seconds > 0 for seconds in trainer.cost.seconds)
    assert trainer.knowledge_mask.schedule["sizes"] == sizes
    assert trainer.knowledge_mask.schedule["relative_cost"] == planned


def test_a_mask_says_what_made_it_and_differs_from_that_of_another_value(finished):
    mask, other = (finished(run).trainer.knowledge_mask for run in ("paper", "random"))
    assert mask.hamming_distance(other) > 0
    assert (mask.provenance["method"], mask.provenance["student"]) == ("spy", "cifar_resnet8")
    assert mask.provenance["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_a_mask_does_not_name_a_teacher_that_was_not_read(tmp_path, finished):
    alone = run_training(tmp_path, PAPER, method="ce", teacher=network(9)).knowledge_mask
    assert alone.provenance["teacher"] is None
    assert finished("paper").trainer.knowledge_mask.provenance["teacher"] == "cifar_resnet8"


def test_seconds_of_training_leave_out_evaluating_and_saving(tmp_path):
    class Slow(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            time.sleep(0.01)

    def slow_metrics(prediction):
        time.sleep(0.3)
        return {"top1": 0.0}

    options = {"num_train_epochs": 2, "lr_decay_epochs": [1], "eval_strategy": "epoch", "save_strategy": "epoch"}
    trainer = make_trainer(tmp_path, None, [Slow()], eval_dataset=EVAL, compute_metrics=slow_metrics, **options)
    started = time.perf_counter()
    trainer.train()
    elapsed = time.perf_counter() - started
    assert all(seconds > 0.01 * 6 for seconds in trainer.cost.seconds)
    assert sum(trainer.cost.seconds) < elapsed - 2 * 0.3


@pytest.mark.parametrize("preset", [PAPER, RELEASED])
def test_a_second_training_starts_over(tmp_path, preset):
    trainer = run_training(tmp_path, preset, method="spy", num_train_epochs=3, lr_decay_epochs=[1])
    first, steps = trainer.cost.points, trainer.state.global_step
    trainer.method.steps.clear()
    trainer.train()
    assert trainer.cost.points == first and trainer.state.global_step == steps
    assert len(trainer.method.by_epoch("point_ids")[0]) == 88
    assert (trainer.method.steps[0]["partner_ids"] == -1).all()
    assert int(trainer.kcd.condenser.record.frequency.max()) <= 3
    # Also the images, into which the released code mixes for good.
    trainer.kcd.reset()
    for point in range(88):
        np.testing.assert_array_equal(trainer.train_dataset.image(point), np.asarray(TRAIN[point]["image"]))


# A published mask trains another student from the start, by its points alone or with its mixing (Fig. 4).
@pytest.mark.parametrize(
    ("run", "mixing", "pair"),
    [("paper", True, "other"), ("paper", False, "same"), ("released", True, "same"), ("released", False, "other")],
)
def test_a_student_is_trained_on_the_mask_from_the_start(tmp_path, finished, run, mixing, pair):
    source = finished(run).trainer
    source.knowledge_mask.save_pretrained(tmp_path / "mask")
    mask = KnowledgeMask.from_pretrained(tmp_path / "mask")
    networks = {"model": dropout_network(), "teacher": network(4, "cifar_wrn_16_2")} if pair == "other" else {}
    options = {"method": "spy", "num_train_epochs": 2, "lr_decay_epochs": [1], **networks}
    trainer = run_training(tmp_path, mask=mask, mask_mixing=mixing, **options)
    cumulative = run == "released"
    num_kept = 88 - 3 * 14 if cumulative else 44
    assert len(mask.kept) == num_kept and bool(mask.mixing_history) == cumulative
    assert trainer.cost.points == [num_kept] * 2
    assert trainer.cost.relative_cost == pytest.approx(num_kept / 88)
    assert trainer.state.global_step == trainer.state.max_steps == 2 * 3 and trainer.state.epoch == 2.0
    assert trainer.knowledge_mask is mask

    order = mask.kept.argsort()
    names = ("point_ids", "partner_ids", "perturbation")
    for ids, partners, shares in zip(*map(trainer.method.by_epoch, names), strict=True):
        drawn = ids.argsort()
        assert torch.equal(ids[drawn], mask.kept[order])
        expected = mask.partner[order] if mixing and not cumulative else torch.full_like(mask.kept, -1)
        assert torch.equal(partners[drawn], expected)
        assert bool(shares.any()) == (mixing and not cumulative)
    # The released code's mixing is in the images: those of the run that made the mask.
    for point in range(88):
        blended = mixing and cumulative
        expected = source.train_dataset.image(point) if blended else np.asarray(TRAIN[point]["image"])
        np.testing.assert_array_equal(trainer.train_dataset.image(point), expected)
