"""Trainings of the methods that change the batch, remember points or train several networks; each run serves several facts."""

from copy import deepcopy
from functools import cache

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import RECIPE, Interrupted, SaveAt, assert_same_end, differing, image_set, losses, make_trainer, network
from transformers import TrainerCallback

from hf_kcd import KCDConfig, KnowledgeDataset
from hf_kcd.methods import register_method
from hf_kcd.methods.sskd import SSKD
from hf_kcd.models import load_model

NUM_POINTS = 44
KCD = KCDConfig(final_ratio=0.5, epochs_per_stage=1)
CONTRAST = {"num_negatives": 10, "kd_weight": 1.0}
# Method, its options, and the loss parts that are logged.
RUNS = {
    "dgkd": ("dgkd", {"kd_weight": 0.9}, ["ce", "kd"]),
    "crd": ("crd", CONTRAST, ["ce", "kd", "crd"]),
    "wcord": ("wcord", CONTRAST, ["ce", "kd", "global", "local"]),
    "dml": ("dml", {"peers": ["cifar_resnet20"]}, ["ce", "dml", "ce_peer_1", "dml_peer_1"]),
    "one": ("one", {"ramp_epochs": 2}, ["one"]),
    "slkd": ("slkd", {}, ["teacher", "sl_teachers", "sl_teacher_1", "sl_teacher_2"]),
    "slkd in two phases": ("slkd", {"first_phase_epochs": 2}, ["teacher", "sl_teachers"]),
    "sskd": ("sskd", {"first_phase_epochs": 1}, ["ce", "kd", "rotation", "similarity"]),
    "unix": ("unix", {}, ["kd"]),
}


def make(out, method, kcd=KCD, callbacks=(), seed=1, **options):
    """A trainer of fresh networks: ResNet-8 from another one, or from three for a method of several teachers."""
    networks = {"model": network(seed), "teacher": [network(9 - i) for i in range(3 if method == "dgkd" else 1)]}
    data = [KnowledgeDataset(image_set(NUM_POINTS), RECIPE, seed=3, training=training) for training in (True, False)]
    torch.manual_seed(seed)
    options |= {"train_dataset": data[0], "eval_dataset": data[1], "learning_rate": 0.02, **networks}
    return make_trainer(out, kcd, callbacks, method=method, **{"num_train_epochs": 3, **options})


class AtFirst(TrainerCallback):
    """Keeps the method's weights as the first phase left them."""

    def on_step_begin(self, args, state, control, model, **kwargs):
        if not state.global_step:
            self.weights = deepcopy(model.method.state_dict())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Train a method of RUNS without an interruption, once for all tests."""

    @cache
    def train(name):
        method, options, _ = RUNS[name]
        trainer = make(tmp_path_factory.mktemp(method), method, callbacks=[AtFirst()], method_options=options)
        trainer.train()
        return trainer

    return train


@pytest.mark.parametrize("name", RUNS)
def test_a_condensed_run_is_the_same_with_an_interruption(name, run, tmp_path):
    whole, (method, options, parts) = run(name), RUNS[name]
    with pytest.raises(Interrupted):
        make(tmp_path, method, callbacks=[SaveAt(4, then_stop=True)], method_options=options).train()
    resumed = make(tmp_path, method, seed=50, method_options=options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert_same_end(whole, resumed)
    for line in losses(whole):
        values = {part.removeprefix("loss_"): value for part, value in line.items() if part.startswith("loss_")}
        assert sorted(values) == sorted(parts) and np.isfinite(list(values.values())).all()
        # WCoRD's memory is empty in the first epoch.
        zero = {part for part, value in values.items() if value == 0}
        assert zero == ({"global"} & set(parts) if line["epoch"] <= 1 else set())
    # Each drawn point is recorded once, whatever rows the method makes of it.
    assert whole.kcd.condenser.record.frequency.sum() == sum(whole.cost.points) < 3 * NUM_POINTS


@pytest.mark.parametrize("name", RUNS)
def test_the_student_is_saved_alone_and_networks_that_learn_along_beside_it(name, run, tmp_path):
    trainer = run(name)
    trainer.save_model(str(tmp_path))
    assert load_file(tmp_path / "model.safetensors").keys() == network(1).state_dict().keys()
    networks = {"slkd": ["sl_teacher_1", "sl_teacher_2"], "dml": ["peer_1"]}.get(RUNS[name][0], [])
    assert list(trainer.method.networks()) == networks
    if not networks:
        return
    metrics = trainer.evaluate()
    trainer.model.eval()
    points = trainer.eval_dataset.__getitems__(range(NUM_POINTS))
    for name, own in trainer.method.networks().items():
        with torch.no_grad():
            logits = own(points["pixel_values"])
            # It differs in memory format, and so by rounding.
            loaded = load_model(tmp_path / name).eval()(points["pixel_values"])
        torch.testing.assert_close(loaded, logits, rtol=1e-4, atol=1e-4)
        right = (logits.argmax(1) == points["labels"]).float().mean().item()
        assert metrics[f"eval_{name}_top1"] == pytest.approx(100 * right, abs=1e-3)


@pytest.mark.parametrize("name", ["crd", "wcord"])
def test_the_memory_knows_when_it_has_seen_each_point(name, run):
    trainer = run(name)
    memory = trainer.method.memory
    assert int(memory.step) == trainer.state.global_step
    assert memory.last_epoch.unique().tolist() == [0, 1, 2]
    assert int((memory.last_epoch == 2).sum()) == trainer.cost.points[2]


def test_sskd_trains_the_teachers_head_in_the_first_phase_and_the_students_after_it(run, tmp_path):
    trainer = run("sskd")
    (noted,) = (one for one in trainer.callback_handler.callbacks if isinstance(one, AtFirst))
    parameters = [f"head.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")]
    heads = {f"{side}_{one}" for side in ("student", "teacher") for one in parameters}
    assert noted.weights.keys() == heads and noted.weights["teacher_head.0.weight"].shape == (64, 64)
    # From then on the teacher's head is frozen, also for weight decay.
    changed = set(differing(noted.weights, trainer.method.state_dict()))
    assert changed == {name for name in heads if name.startswith("student_head")}
    # The first phase does not run the student; each step runs it once, on all copies.
    assert int(trainer.student.bn1.num_batches_tracked) == trainer.state.global_step
    origins = []

    @register_method("test_noted_sskd")
    class Noted(SSKD):
        def first_phase_losses(self, student, teacher, batch):
            assert student is None and len(batch["labels"]) % 4 == 0
            parts = super().first_phase_losses(student, teacher, batch)
            origins.append(parts["origin"].item())
            return parts

    options = {"num_train_epochs": 1, "bf16": True, "method_options": {"first_phase_epochs": 20}}
    trainer = make(tmp_path, "test_noted_sskd", None, **options)
    trainer.train()
    assert len(origins) == 20 * 3 and np.mean(origins[-6:]) < np.mean(origins[:6])
    # Every part works in bfloat16.
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    assert all(line["loss_similarity"] > 0 for line in losses(trainer))
