"""Methods that compare features, embeddings or logits in real runs: no part is zero, phases end, runs resume to the bit."""

import copy
import math

import pytest
import torch
from tiny_runs import RECIPE, TRAIN, SaveAt, assert_same_end, losses, make_trainer, network

from hf_kcd.data import KnowledgeDataset
from hf_kcd.training import KCDConfig

KCD = KCDConfig(final_ratio=0.5, epochs_per_stage=1)
# Short phases; a warm-up within the run.
OPTIONS = {
    **{name: {} for name in ("fitnet", "at", "sp", "vid", "rkd", "pkt", "cc", "nst", "ofd")},
    **{name: {"warmup_epochs": 1} for name in ("dkd", "reviewkd")},
    **{name: {"first_phase_epochs": 1} for name in ("ab", "fsp", "ft")},
}
# A parameter that is not a module's, buffers and the teacher's batch statistics, a ramp, and both kinds of first phase.
RESUMED = ("vid", "ofd", "reviewkd", "ab", "ft")


def make(out, method, callbacks=(), seed=1, **options):
    # FSP wants the same channels; a pair of different widths for the others.
    teacher = network(9, "cifar_resnet20" if method == "fsp" else "cifar_wrn_16_2")
    torch.manual_seed(seed)
    options = {"kcd": KCD, "num_train_epochs": 2, "method_options": OPTIONS[method], **options}
    options |= {"train_dataset": KnowledgeDataset(TRAIN.select(range(46)), RECIPE, seed=3), "learning_rate": 0.02}
    return make_trainer(out, callbacks=callbacks, model=network(seed), teacher=teacher, method=method, **options)


@pytest.mark.parametrize("method", OPTIONS)
def test_a_condensed_run_has_no_part_at_zero_moves_what_it_trains_and_resumes(tmp_path, method):
    trainer = make(tmp_path / "whole", method, [SaveAt(2 if method in RESUMED else None)])
    start, teacher = copy.deepcopy(trainer.method.state_dict()), copy.deepcopy(trainer.teacher.state_dict())
    trainer.train()
    assert trainer.cost.points == [46, 32]
    parts = ["ce"] if method in ("ab", "fsp") else ["ce", method]
    first, *lines = losses(trainer)
    # A warm-up starts at 0, and follows the epochs as they shrink.
    assert (first.get(f"loss_{method}") == 0) == ("warmup_epochs" in OPTIONS[method])
    for line in lines:
        assert [name.removeprefix("loss_") for name in line if name.startswith("loss_")] == parts
        assert all(math.isfinite(line[f"loss_{part}"]) and line[f"loss_{part}"] != 0 for part in parts)
    for name, parameter in trainer.method.named_parameters():
        assert not torch.equal(parameter, start[name]), name
    assert all(torch.equal(teacher[name], tensor) for name, tensor in trainer.teacher.state_dict().items())
    assert all(p.grad is None for p in trainer.teacher.parameters())
    assert trainer.student.state_dict().keys() == network().state_dict().keys()

    if method in RESUMED:
        resumed = make(tmp_path / "resumed", method, seed=50)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
        assert_same_end(trainer, resumed)


def test_the_paraphraser_is_trained_first_without_the_student_and_fixed_from_then_on(tmp_path):
    def weights(module):
        return torch.cat([p.detach().flatten() for p in trainer.method.get_submodule(module).parameters()])

    def note(*_):
        seen.append((trainer.model.in_first_phase, weights("paraphraser"), weights("translator")))

    seen = []
    trainer = make(tmp_path, "ft", kcd=None, num_train_epochs=1)
    trainer.student.conv1.register_forward_hook(note)
    note()
    trainer.train()
    note()
    (_, *start), (phase, *between), (_, *end) = seen[0], seen[1], seen[-1]
    assert len(seen) == 1 + 3 + 1 and not phase
    assert not torch.equal(start[0], between[0]) and torch.equal(start[1], between[1])
    assert torch.equal(between[0], end[0]) and not torch.equal(between[1], end[1])


def test_the_hint_can_be_a_phase_of_its_own(tmp_path):
    options = {"first_phase_epochs": 1, "kd_weight": 0.9}
    trainer = make(tmp_path, "fitnet", kcd=None, num_train_epochs=1, method_options=options)
    before = trainer.method.regressor[0].weight.detach().clone()
    trainer.train()
    assert not torch.equal(before, trainer.method.regressor[0].weight)
    assert all({"loss_ce", "loss_kd"} <= line.keys() and "loss_fitnet" not in line for line in losses(trainer))
