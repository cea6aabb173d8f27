"""A stranger's method in a few lines: adapters over features, a first phase, a changed batch; exact over a restart."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import RECIPE, TRAIN, SaveAt, assert_same_end, losses, make_trainer, network
from torch import nn
from torch.nn import functional as F

from hf_kcd.data import KnowledgeDataset
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

    def __init__(self, student, teacher, num_points):
        super().__init__(student, teacher, num_points)
        self.seen = []

    def first_phase_losses(self, student, teacher, batch):
        hint = self.hint(student, teacher)
        self.seen.append((float(hint.detach()), self.epoch, batch["point_ids"].clone()))
        return {"hint": hint}

    def forward(self, student, teacher, batch):
        return {"ce": F.cross_entropy(student.logits.float(), batch["labels"]) + 0 * self.adapter.weight.sum()}


@register_method("test_rotations")
class Rotations(DistillationMethod):
    """Every image four times, rotated; only the upright one is recorded."""

    upright = None

    def prepare_batch(self, batch, student):
        images = batch["pixel_values"]
        turned = torch.stack([images.rot90(k, (2, 3)) for k in range(4)], dim=1).flatten(0, 1)
        rows = {name: values.repeat_interleave(4, 0) for name, values in batch.items() if name != "pixel_values"}
        return {"pixel_values": turned, **rows}

    def point_rows(self, batch):
        return slice(None, None, 4)

    def forward(self, student, teacher, batch):
        if self.upright is not None:
            probabilities = student.logits.detach()[::4].double().softmax(1)
            entropies = -(probabilities * probabilities.log()).sum(1)
            for point, entropy in zip(batch["point_ids"][::4].tolist(), entropies.tolist(), strict=True):
                self.upright[point].append(entropy)
        return {"kd": kd_loss(student.logits, teacher.logits, 3.0)}


NUM_POINTS, SIZES = 48, [48, 38, 30]  # 3, 3 and 2 batches


def make(out, method, callbacks=(), seed=1):
    torch.manual_seed(seed)
    data = KnowledgeDataset(TRAIN.select(range(NUM_POINTS)), RECIPE, seed=3)
    networks = {"model": network(seed), "teacher": network(9, "cifar_wrn_16_2")}
    options = {"method": f"test_{method}", "num_train_epochs": 3, "learning_rate": 0.02, "train_dataset": data}
    return make_trainer(out, KCD, callbacks, **networks, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the finished run of a method, its weights at the start, and its folder; each is trained once."""
    runs = {}

    def run(method: str):
        if method not in runs:
            folder = tmp_path_factory.mktemp(method)
            trainer = make(folder, method, [SaveAt(4)])
            if method == "rotations":
                trainer.method.upright = [[] for _ in range(NUM_POINTS)]
            start = {name: tensor.clone() for name, tensor in trainer.method.state_dict().items()}
            trainer.train()
            runs[method] = trainer, start, folder
        return runs[method]

    return run


@pytest.mark.parametrize("method", ["hint", "two_phases", "rotations"])
def test_every_kind_of_method_trains_and_resumes_exactly(tmp_path, trained, method):
    whole, _, folder = trained(method)
    assert whole.cost.points == SIZES and whole.state.global_step == 3 + 3 + 2
    resumed = make(tmp_path, method, seed=50)
    resumed.train(resume_from_checkpoint=folder / "checkpoint-4")
    assert_same_end(whole, resumed)


def test_adapters_get_gradients_and_stay_behind(tmp_path, trained):
    trainer, start, _ = trained("hint")
    assert (trainer.method.adapter.weight - start["adapter.weight"]).abs().max() > 1e-4
    assert trainer.method.adapter.weight.shape == (64, 32, 1, 1)
    trainer.save_model(str(tmp_path / "saved"))
    exported = load_file(tmp_path / "saved" / "model.safetensors")
    assert exported.keys() == network().state_dict().keys()
    assert load_file(tmp_path / "saved" / "method.safetensors").keys() == {"adapter.weight", "adapter.bias"}


def test_rotations_are_recorded_and_counted_as_one_point(trained):
    trainer, *_ = trained("rotations")
    record, upright = trainer.kcd.condenser.record, trainer.method.upright
    assert record.frequency.tolist() == [len(values) for values in upright]
    assert record.frequency.sum() == sum(SIZES)
    means = [sum(values) / len(values) for values in upright]
    assert record.value.tolist() == pytest.approx(means, rel=1e-4, abs=1e-6)


def test_the_first_phase_trains_by_its_own_loss_and_is_neither_recorded_nor_logged(trained):
    trainer, *_ = trained("two_phases")
    seen = trainer.method.seen
    assert len(seen) == 2 * 3 and seen[-1][0] < seen[0][0]
    assert [epoch for _, epoch, _ in seen] == pytest.approx([i / 3 for i in range(6)])
    for phase_epoch in (seen[:3], seen[3:]):
        assert torch.cat([ids for *_, ids in phase_epoch]).sort().values.tolist() == list(range(NUM_POINTS))
    assert int(trainer.kcd.condenser.record.frequency.max()) == 3
    assert all("loss_hint" not in line for line in losses(trainer))
