"""NaN and infinity: reported with step and points, and never a value."""

import sys

import pytest
import torch
from tiny_runs import PAPER, Before, Spy, dropout_network, make_trainer, network

from hf_kcd.methods import register_method
from hf_kcd.training.finite import FiniteCheck


def breaking(network, step, value):
    """Put a NaN or an infinity into a network before a step."""
    return Before(step, lambda: next(network.parameters()).data.fill_(value))


@register_method("test_infinite_input")
class InfiniteInput(Spy):
    """From the second epoch on, points 5 and 40 are infinite."""

    def prepare_batch(self, batch, student):
        if self.epoch >= 1:
            bad = (batch["point_ids"] == 5) | (batch["point_ids"] == 40)
            batch["pixel_values"] = batch["pixel_values"].masked_fill(bad.view(-1, 1, 1, 1), torch.inf)
        return batch


@register_method("test_infinite_loss")
class InfiniteLoss(Spy):
    """A loss that overflows while the logits are finite."""

    def forward(self, student, teacher, batch):
        parts = super().forward(student, teacher, batch)
        return {**parts, "kd": parts["kd"] * (torch.inf if self.epoch >= 1 else 1)}


@pytest.mark.parametrize(("who", "value"), [("model", torch.nan), ("model", torch.inf), ("teacher", torch.inf)])
def test_a_broken_network_is_reported_at_its_step(tmp_path, value, who):
    networks = {"model": network(), "teacher": network(9)}
    trainer = make_trainer(tmp_path, PAPER, [breaking(networks[who], 8, value)], method="spy", **networks)
    with pytest.raises(FloatingPointError, match="NaN or infinite at step 8, points ") as error:
        trainer.train()
    advice = {"model": "Lower learning_rate", "teacher": "Check the teacher's weights"}
    assert advice[who] in str(error.value)
    last = trainer.method.steps[-1]["point_ids"].tolist()
    assert len(trainer.method.steps) == 9
    assert ", ".join(map(str, last)) in str(error.value)
    state = trainer.kcd.condenser.record.state_dict()
    assert state["value"].isfinite().all() and (state["open"] < torch.inf).all()
    assert state["frequency"].max() == 1, "epoch 1 was not closed"


def test_only_the_points_that_broke_are_named(tmp_path):
    student, teacher = dropout_network(rate=0.0), dropout_network(9, rate=0.0)
    trainer = make_trainer(tmp_path, method="test_infinite_input", model=student, teacher=teacher)
    with pytest.raises(FloatingPointError, match=r"at step (\d+), points ") as error:
        trainer.train()
    # The loss over the batch is broken with one row. The first step of epoch 1 that shows one of them:
    batch = trainer.method.steps[-1]["point_ids"].tolist()
    broken = [point for point in batch if point in (5, 40)]
    assert broken and len(batch) == 16
    assert f"points {', '.join(map(str, broken))}. " in str(error.value)
    assert "Check the images of these points" in str(error.value)


def test_a_broken_loss_over_finite_logits_is_reported_and_not_recorded(tmp_path):
    trainer = make_trainer(tmp_path, PAPER, method="test_infinite_loss")
    with pytest.raises(FloatingPointError, match="at step 6"):
        trainer.train()
    assert not trainer.kcd.condenser.record.is_open


def test_nothing_that_is_not_finite_is_saved(tmp_path, monkeypatch):
    # As on an accelerator, where a step is checked when a log line or a checkpoint is due.
    check = FiniteCheck.check
    caller = lambda: sys._getframe(2).f_code.co_name  # noqa: E731
    monkeypatch.setattr(FiniteCheck, "check", lambda self: None if caller() == "note" else check(self))
    # Broken at the first step of an epoch that ends with step 11; the next checkpoint would be that of step 8.
    student = network()
    options = {"logging_strategy": "no", "save_strategy": "steps", "save_steps": 4}
    trainer = make_trainer(tmp_path, PAPER, [breaking(student, 6, torch.nan)], model=student, **options)
    with pytest.raises(FloatingPointError, match="at step 6"):
        trainer.train()
    assert [folder.name for folder in tmp_path.glob("checkpoint-*")] == ["checkpoint-4"]
    trainer = make_trainer(tmp_path, PAPER, max_steps=8)
    trainer.train(resume_from_checkpoint=True)
    assert all(tensor.isfinite().all() for tensor in trainer.student.state_dict().values())


def test_many_points_are_counted_instead_of_listed():
    with pytest.raises(FloatingPointError, match=r"points 0, 1, .*, 15, … \(40 points\)"):
        FiniteCheck().note(3, torch.arange(40), torch.tensor(torch.nan))
