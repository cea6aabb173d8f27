"""The interface of a method carries what the field's methods need: each kind in a few lines, exact over an interruption.

The methods here belong to the tests. Each shows one ability: trainable adapters over features, a changed batch, a
co-trained network, a memory by point id, a first phase, a look at the student before the step, a ramp over epochs.
"""

import pytest
import timm
import torch
from distillation_runs import (
    NUM_CLASSES,
    NUM_POINTS,
    Interrupt,
    Interrupted,
    differing,
    make_trainer,
    network,
    outcome,
)
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from hf_kcd.condensation import prediction_entropy
from hf_kcd.losses import kd_loss
from hf_kcd.methods import DistillationMethod, FirstPhase, register_method
from hf_kcd.training import KCDConfig

KCD = KCDConfig(final_ratio=0.5, epochs_per_stage=1)


@register_method("test_hint")
class Hint(DistillationMethod):
    """Features through a trainable 1x1 convolution."""

    student_reads = frozenset({"logits", "features"})
    teacher_reads = frozenset({"features"})

    def __init__(self, student, teacher, num_points, *, stage: int = 2):
        super().__init__(student, teacher, num_points)
        self.stage = stage
        self.adapter = nn.Conv2d(student.feature_channels[stage], teacher.feature_channels[stage], 1)

    def hint(self, student, teacher):
        return F.mse_loss(self.adapter(student.features[self.stage]), teacher.features[self.stage])

    def forward(self, student, teacher, batch):
        ce = F.cross_entropy(student.logits.float(), batch["labels"])
        return {"ce": ce, "hint": 10 * self.hint(student, teacher)}


@register_method("test_two_phases")
class TwoPhases(Hint):
    """The hint alone first, then the labels alone."""

    first_phase = FirstPhase(epochs=2)

    def first_phase_losses(self, student, teacher, batch):
        return {"hint": self.hint(student, teacher)}

    def forward(self, student, teacher, batch):
        return {"ce": F.cross_entropy(student.logits.float(), batch["labels"]) + 0 * self.adapter.weight.sum()}


@register_method("test_rotations")
class Rotations(DistillationMethod):
    """Every image four times, turned; only the upright one stands for its point."""

    def prepare_batch(self, batch, student):
        images = batch["pixel_values"]
        turned = torch.stack([images.rot90(k, (2, 3)) for k in range(4)], dim=1).flatten(0, 1)
        rows = {name: values.repeat_interleave(4, 0) for name, values in batch.items() if name != "pixel_values"}
        return {"pixel_values": turned, **rows}

    def point_rows(self, batch):
        return slice(None, None, 4)

    def forward(self, student, teacher, batch):
        return {"kd": kd_loss(student.logits, teacher.logits, 3.0)}


@register_method("test_peer")
class Peer(DistillationMethod):
    """An untrained network of the teacher's make that learns beside the student."""

    def __init__(self, student, teacher, num_points):
        super().__init__(student, teacher, num_points)
        self.peer = timm.create_model(teacher.name, num_classes=teacher.num_classes)

    def forward(self, student, teacher, batch):
        peer, labels = self.peer(batch["pixel_values"]), batch["labels"]
        return {
            "ce": F.cross_entropy(student.logits, labels),
            "peer": F.cross_entropy(peer, labels),
            "kd": kd_loss(student.logits, peer.detach(), 4.0),
        }


@register_method("test_memory")
class Memory(DistillationMethod):
    """A memory of the student's embedding of every point, on which the next epoch pulls."""

    student_reads = frozenset({"logits", "embedding"})

    def __init__(self, student, teacher, num_points):
        super().__init__(student, teacher, num_points)
        self.register_buffer("memory", torch.zeros(num_points, student.embedding_dim))

    def forward(self, student, teacher, batch):
        ids = batch["point_ids"]
        pull = F.mse_loss(student.embedding, self.memory[ids])
        self.memory.index_copy_(0, ids, 0.5 * self.memory[ids] + 0.5 * student.embedding.detach())
        return {"kd": kd_loss(student.logits, teacher.logits, 4.0), "pull": pull}


@register_method("test_subset")
class Subset(DistillationMethod):
    """The half of the batch that the student is least sure of, mixed with the other half."""

    def prepare_batch(self, batch, student):
        with torch.no_grad():
            order = prediction_entropy(student(batch["pixel_values"])).argsort(descending=True, stable=True)
        half = len(order) // 2
        chosen = {name: values[order[:half]] for name, values in batch.items()}
        others = batch["pixel_values"][order[half : 2 * half]]
        return {**chosen, "pixel_values": 0.8 * chosen["pixel_values"] + 0.2 * others}

    def forward(self, student, teacher, batch):
        return {"kd": kd_loss(student.logits, teacher.logits, 4.0)}


@register_method("test_ramp")
class Ramp(DistillationMethod):
    """A weight that rises with the epochs trained."""

    def forward(self, student, teacher, batch):
        ce = F.cross_entropy(student.logits, batch["labels"])
        return {"ce": ce, "kd": min(1.0, self.epoch / 2) * kd_loss(student.logits, teacher.logits, 4.0)}


METHODS = ["hint", "two_phases", "rotations", "peer", "memory", "subset", "ramp"]


def run(out, method, kcd, callbacks=(), resume=None, seed=1, **options):
    torch.manual_seed(seed)
    trainer = make_trainer(
        out,
        kcd,
        callbacks,
        model=network(seed),
        teacher=network(9, "cifar_wrn_16_2"),
        method=f"test_{method}",
        num_train_epochs=3,
        learning_rate=0.02,
        **options,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.parametrize("kcd", [None, KCD], ids=["plain", "kcd"])
@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_method_trains_and_resumes_exactly(tmp_path, method, kcd):
    whole = run(tmp_path / "whole", method, kcd)
    assert whole.cost.points == ([88, 88, 88] if kcd is None else [88, 69, 55])
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", method, kcd, [Interrupt(8)])
    resumed = run(tmp_path / "cut", method, kcd, resume=str(tmp_path / "cut" / "checkpoint-8"), seed=50)
    assert not differing(outcome(whole), outcome(resumed))


def test_adapters_get_gradients_and_stay_behind(tmp_path):
    torch.manual_seed(1)
    trainer = make_trainer(tmp_path, teacher=network(9, "cifar_wrn_16_2"), method="test_hint", num_train_epochs=1)
    before = trainer.method.adapter.weight.detach().clone()
    trainer.train()
    assert (trainer.method.adapter.weight - before).abs().max() > 1e-4
    assert trainer.method.adapter.weight.shape == (64, 32, 1, 1)
    trainer.save_model(str(tmp_path / "saved"))
    exported = load_file(tmp_path / "saved" / "model.safetensors")
    assert exported.keys() == network().state_dict().keys()
    assert load_file(tmp_path / "saved" / "method.safetensors").keys() == {"adapter.weight", "adapter.bias"}


def test_rotations_are_recorded_and_counted_as_one_point(tmp_path):
    upright = {}

    class Noted(Rotations):
        def forward(self, student, teacher, batch):
            logits = student.logits.detach()[::4].double()
            probabilities = logits.softmax(1)
            entropies = -(probabilities * probabilities.log()).sum(1)
            for point, entropy in zip(batch["point_ids"][::4].tolist(), entropies.tolist(), strict=True):
                upright.setdefault(point, []).append(entropy)
            return super().forward(student, teacher, batch)

    register_method("test_noted_rotations")(Noted)
    record = run(tmp_path, "noted_rotations", KCD).kcd.condenser.record
    assert record.frequency.sum() == 88 + 69 + 55
    assert record.frequency.tolist() == [len(upright[point]) for point in range(NUM_POINTS)]
    means = [sum(upright[point]) / len(upright[point]) for point in range(NUM_POINTS)]
    assert record.value.tolist() == pytest.approx(means, rel=1e-4, abs=1e-6)


def test_a_co_trained_network_learns(tmp_path):
    trainer = run(tmp_path, "peer", None)
    fresh = timm.create_model("cifar_wrn_16_2", num_classes=NUM_CLASSES)
    assert trainer.method.peer.state_dict().keys() == fresh.state_dict().keys()
    first, last = (trainer.state.log_history[i]["loss_peer"] for i in (0, -2))
    assert last < first
    assert int(trainer.method.peer.bn1.num_batches_tracked) == 18


def test_a_memory_has_an_entry_for_every_point(tmp_path):
    trainer = run(tmp_path, "memory", KCD)
    assert trainer.method.memory.shape == (NUM_POINTS, 64)
    assert (trainer.method.memory.abs().sum(1) > 0).all()


def test_the_first_phase_trains_by_its_own_loss_and_is_neither_recorded_nor_logged(tmp_path):
    seen = []

    class Noted(TwoPhases):
        def first_phase_losses(self, student, teacher, batch):
            parts = super().first_phase_losses(student, teacher, batch)
            seen.append((float(parts["hint"].detach()), self.epoch, batch["point_ids"].clone()))
            return parts

    register_method("test_noted_phases")(Noted)
    trainer = run(tmp_path, "noted_phases", KCD)
    assert len(seen) == 2 * 6 and seen[-1][0] < seen[0][0]
    assert [epoch for _, epoch, _ in seen] == pytest.approx([i / 6 for i in range(12)])
    for phase_epoch in (seen[:6], seen[6:]):
        assert torch.cat([ids for *_, ids in phase_epoch]).sort().values.tolist() == list(range(NUM_POINTS))
    assert int(trainer.kcd.condenser.record.frequency.max()) == 3
    assert trainer.state.global_step == 6 + 5 + 4
    assert trainer.cost.points == [88, 69, 55]


def test_a_ramp_follows_the_epochs_as_they_shrink(tmp_path):
    trainer = run(tmp_path, "ramp", KCD)
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert lines[0]["loss_kd"] == 0
    assert all(line["loss_kd"] > 0 for line in lines[1:])
