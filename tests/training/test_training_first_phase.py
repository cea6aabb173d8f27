"""A first phase: its own learning rate, crops and order; announced, counted, and blamed for what it breaks."""

import json
import math

import pytest
import torch
from tiny_runs import (
    BATCH,
    NUM_POINTS,
    RECIPE,
    TRAIN,
    Interrupted,
    SaveAt,
    differing,
    losses,
    make_trainer,
    outcome,
    run_training,
)
from torch import nn
from transformers import TrainerCallback

from hf_kcd.cli.main import main
from hf_kcd.data import KnowledgeDataset
from hf_kcd.losses import cross_entropy_loss
from hf_kcd.methods import DistillationMethod, FirstPhase, register_method
from hf_kcd.training.results import run_results

STEPS = math.ceil(NUM_POINTS / BATCH)


@register_method("test_slope")
class Slope(DistillationMethod):
    """A first phase that moves one number by the learning rate in each step: the gradient is 1."""

    teacher_reads = frozenset()

    def __init__(self, *args, epochs=4, learning_rate=0.5, decay_epochs=(2, 3)):
        super().__init__(*args)
        self.first_phase = FirstPhase(epochs, False, learning_rate, tuple(decay_epochs))
        self.number = nn.Parameter(torch.zeros(()))
        self.numbers, self.first_batches, self.batches = [], [], []

    def first_phase_losses(self, student, teacher, batch):
        self.numbers.append(self.number.item())
        self.first_batches.append({name: batch[name].clone() for name in ("point_ids", "pixel_values")})
        return {"slope": self.number}

    def forward(self, student, teacher, batch):
        self.batches.append({name: batch[name].clone() for name in ("point_ids", "pixel_values")})
        return {"ce": cross_entropy_loss(student.logits, batch["labels"]) + 0 * self.number}


PLAIN = {"method": "test_slope", "momentum": 0.0, "weight_decay": 0.0, "teacher": None, "num_train_epochs": 2}


def slope(out, **options):
    method_options = {
        name: options.pop(name) for name in ("epochs", "learning_rate", "decay_epochs") if name in options
    }
    return run_training(out, method_options=method_options, **PLAIN, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return slope(tmp_path_factory.mktemp("slope"))


def test_it_has_its_own_learning_rate_which_decays_after_its_own_epochs(trained):
    method = trained.method
    moves = [
        before - after
        for before, after in zip(method.numbers, [*method.numbers[1:], method.number.item()], strict=True)
    ]
    expected = [rate for rate in (0.5, 0.5, 0.05, 0.005) for _ in range(STEPS)]
    assert moves == pytest.approx(expected, rel=1e-4)


def test_without_its_own_it_has_the_learning_rate_of_the_training(tmp_path):
    trainer = slope(tmp_path, epochs=1, learning_rate=None, max_steps=1)
    assert trainer.method.number.item() == pytest.approx(-0.05 * STEPS)


def by_epoch(batches: list[dict]) -> list[dict]:
    groups = [batches[first : first + STEPS] for first in range(0, len(batches), STEPS)]
    return [{name: torch.cat([batch[name] for batch in group]) for name in group[0]} for group in groups]


def test_it_shows_its_own_crops_in_its_own_order(trained):
    first, training = by_epoch(trained.method.first_batches), by_epoch(trained.method.batches)
    assert (len(first), len(training)) == (4, 2)
    orders = [epoch["point_ids"].tolist() for epoch in (*first, *training)]
    assert all(sorted(order) == list(range(NUM_POINTS)) for order in orders)
    assert len({tuple(order) for order in orders}) == 6
    # Its epochs are numbered after those of the training.
    dataset = KnowledgeDataset(TRAIN, RECIPE, seed=3)
    for number, epoch in enumerate((*training, *first)):
        dataset.set_epoch(number)
        images = dataset.__getitems__(range(NUM_POINTS))["pixel_values"]
        assert torch.equal(epoch["pixel_values"], images[epoch["point_ids"]])
    assert not torch.equal(*(epoch["pixel_values"][epoch["point_ids"].argsort()] for epoch in (first[0], training[0])))


def test_the_gradient_is_clipped_in_it_too(tmp_path):
    trainer = slope(tmp_path, epochs=1, max_grad_norm=0.1, max_steps=1)
    assert trainer.method.number.item() == pytest.approx(-0.5 * 0.1 * STEPS, rel=1e-3)


def test_it_is_logged_and_counted_apart(trained):
    log = [line for line in trained.state.log_history if "first_phase_loss" in line]
    assert [line["first_phase_epoch"] for line in log] == [1, 2, 3, 4]
    assert [line["first_phase_learning_rate"] for line in log] == pytest.approx([0.5, 0.5, 0.05, 0.005])
    numbers = trained.method.numbers
    assert log[1]["first_phase_loss"] == pytest.approx(sum(numbers[STEPS : 2 * STEPS]) / STEPS, rel=1e-4)
    assert len(losses(trained)) == 2 * STEPS
    results = run_results(trained, data="noise")
    # Four epochs before a training of two.
    assert results["cost"]["paid"] == 1 and results["cost"]["first_phase"] == 2
    assert results["cost"]["points"] == 2 * NUM_POINTS
    assert 0 < results["seconds"]["first_phase"] < 60


def test_a_resumed_run_remembers_what_it_paid_and_does_not_repeat_it(tmp_path):
    whole = slope(tmp_path / "whole", callbacks=[SaveAt(3)])
    resumed = make_trainer(tmp_path / "resumed", **PLAIN)
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    resumed.args.method_options = whole.args.method_options
    resumed.train(resume_from_checkpoint=checkpoint)
    assert not resumed.method.numbers
    costs = [run_results(trainer, data="noise")["cost"] for trainer in (whole, resumed)]
    assert costs[0] == costs[1] and costs[0]["first_phase"] == 2
    # A checkpoint of an earlier version does not know it.
    known = json.loads((checkpoint / "cost.json").read_text())
    del known["first_phase"]
    (checkpoint / "cost.json").write_text(json.dumps(known))
    resumed.train(resume_from_checkpoint=checkpoint)
    assert run_results(resumed, data="noise")["cost"]["first_phase"] is None


class StopAtFirstLine(TrainerCallback):
    """Cut a run off at the first line of its log, in its first phase."""

    def on_log(self, args, state, control, **kwargs):
        raise Interrupted


def test_one_that_is_cut_off_does_not_go_on_in_the_next_training(tmp_path):
    alone = slope(tmp_path, callbacks=[SaveAt(2)])
    options = {"method": "test_slope", "teacher": None, "momentum": 0.0, "weight_decay": 0.0, "num_train_epochs": 2}
    stop = StopAtFirstLine()
    trainer = make_trainer(tmp_path / "other", callbacks=[stop], **options)
    with pytest.raises(Interrupted):
        trainer.train()
    trainer.remove_callback(stop)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert len(trainer.method.batches) == 2 * STEPS - 2
    assert not differing(outcome(trainer), outcome(alone))


def test_a_method_without_one_counts_none(finished):
    results = run_results(finished("paper").trainer, data="noise")
    assert results["cost"]["first_phase"] is None and results["seconds"]["first_phase"] is None


@register_method("test_explosion")
class Explosion(Slope):
    """The first step of its first phase is far too large."""

    def first_phase_losses(self, student, teacher, batch):
        super().first_phase_losses(student, teacher, batch)
        return {"explosion": (self.number - 1).square() * 1e30}


@pytest.mark.parametrize(
    ("learning_rate", "advice"),
    [(0.5, r"Lower learning_rate of its FirstPhase \(0.5\)"), (None, r"the training's: lower learning_rate \(0.05\)")],
)
def test_a_first_phase_that_diverges_is_named_with_its_step_and_its_learning_rate(tmp_path, learning_rate, advice):
    options = {"learning_rate": learning_rate, "decay_epochs": ()}
    trainer = make_trainer(tmp_path, method="test_explosion", method_options=options, teacher=None)
    with pytest.raises(
        FloatingPointError, match=rf"infinite at step 1 of the first phase, points .*{advice}"
    ) as error:
        trainer.train()
    assert "checkpoint" not in str(error.value) and "warmup_epochs" not in str(error.value)
    assert not trainer.method.batches


def test_the_option_of_a_method_that_sets_its_learning_rate_is_named(tmp_path):
    options = {"first_phase_epochs": 1, "first_phase_learning_rate": 1e20}
    trainer = make_trainer(tmp_path, method="ft", method_options=options)
    with pytest.raises(FloatingPointError, match=r"first phase.*Lower first_phase_learning_rate of method_options"):
        trainer.train()


@register_method("test_last_update")
class LastUpdate(Slope):
    """The last update of its first phase breaks a weight."""

    def first_phase_losses(self, student, teacher, batch):
        super().first_phase_losses(student, teacher, batch)
        return {"slope": self.number * (3e38 if len(self.numbers) == STEPS else 0.0)}


def test_an_update_that_breaks_the_weights_is_not_blamed_on_the_training(tmp_path):
    options = {"epochs": 1, "learning_rate": 10.0}
    trainer = make_trainer(tmp_path, method="test_last_update", method_options=options, teacher=None)
    with pytest.raises(FloatingPointError, match=r"after the first phase\. Lower learning_rate of its FirstPhase"):
        trainer.train()
    assert not trainer.method.batches


def test_the_command_line_announces_it_shows_its_epochs_and_tells_its_cost(tmp_path, capsys):
    words = "--data digits --train_points 40 --use_cpu true --plots false --report_to none --num_train_epochs 1"
    main(["train-teacher", *words.split(), "--network", "cifar_resnet8", "--output_dir", str(tmp_path / "teacher")])
    capsys.readouterr()
    pair = [
        "--teacher",
        str(tmp_path / "teacher"),
        "--student",
        "cifar_resnet8",
        "--output_dir",
        str(tmp_path / "run"),
    ]
    options = ["--method", "sskd", "--per_device_train_batch_size", "16"]
    phase = ["--method_options", json.dumps({"first_phase_epochs": 3, "first_phase_decay_epochs": [2]})]
    main(["distill", *words.split(), *pair, *options, *phase])
    said = capsys.readouterr().out
    # 40 points make 3 batches.
    assert "A first phase of 3 epochs (9 steps of SGD) trains the method's own weights alone." in said
    assert [f"first phase, epoch  {number}/3  loss" in said for number in (1, 2, 3)] == [True] * 3
    assert "lr 0.005" in said
    assert "and 300.00% of its points in the method's first phase" in said
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["cost"]["first_phase"] == 3
