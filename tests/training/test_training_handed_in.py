"""What people hand in besides the teacher is left as it was, and one training does not change the next."""

import copy

import datasets
import numpy as np
import pytest
import timm
import torch
from tiny_runs import (
    EVAL,
    PAPER,
    RECIPE,
    RELEASED,
    TRAIN,
    Before,
    config,
    differing,
    make_trainer,
    network,
    outcome,
)
from tiny_runs import run_training as run

from hf_kcd import DistillationTrainer, KCDTrainerCallback, KnowledgeDataset
from hf_kcd.training.soft_labels import make_soft_labels

SHORT = {"num_train_epochs": 3, "lr_decay_epochs": [2]}


def small_resnet(seed: int = 1, **options) -> torch.nn.Module:
    return network(seed, "resnet10t", channels=(8, 16, 16, 16), stem_width=8, **options)


def test_a_trainer_that_is_only_made_leaves_its_student_alone(tmp_path):
    student = network(pretrained_cfg_overlay={"input_size": (3, 32, 32)}).eval()
    student.layer1.train()
    student.layer2.requires_grad_(False)
    flags = [module.training for module in student.modules()]
    needs = [weight.requires_grad for weight in student.parameters()]
    cfg, layout = dict(student.pretrained_cfg), [(w.data_ptr(), w.stride()) for w in student.parameters()]
    trainer = make_trainer(tmp_path, model=student, method="reviewkd")
    assert student.pretrained_cfg == cfg
    assert [module.training for module in student.modules()] == flags
    assert [weight.requires_grad for weight in student.parameters()] == needs
    assert [(weight.data_ptr(), weight.stride()) for weight in student.parameters()] == layout
    # A refused one, too.
    with pytest.raises(ValueError, match="classes"):
        make_trainer(tmp_path, model=student, teacher=network(9, num_classes=7))
    assert student.pretrained_cfg == cfg
    # The weights know other images once they are trained, and say so where the student teaches.
    trainer.train()
    assert student.pretrained_cfg["input_size"] == (3, 8, 8) and student.pretrained_cfg["mean"] == RECIPE.mean


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_trained_student_has_new_weights_and_nothing_else(tmp_path, checkpointing):
    student = small_resnet()
    student.layer1[0].conv1.weight.requires_grad_(False)
    hooks = lambda: [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in student.modules()]  # noqa: E731
    flags = lambda: [(vars(m).get("inplace"), vars(m).get("grad_checkpointing")) for m in student.modules()]  # noqa: E731
    layout = lambda: [(w.data_ptr(), w.stride(), w.requires_grad) for w in student.parameters()]  # noqa: E731
    before = hooks(), flags(), layout()
    frozen, free = student.layer1[0].conv1.weight.clone(), student.fc.weight.clone()
    run(tmp_path, model=student, method="spy", gradient_checkpointing=checkpointing, **SHORT)
    assert (hooks(), flags(), layout()) == before
    assert torch.equal(student.layer1[0].conv1.weight, frozen) and not torch.equal(student.fc.weight, free)


@pytest.mark.parametrize("make", [small_resnet, network, lambda: network(name="test_efficientnet")])
def test_statistics_move_once_a_step_under_gradient_checkpointing(tmp_path, make):
    ends = []
    for checkpointing in ("no", "by_argument", "by_student"):
        student = make()
        if checkpointing == "by_student":
            student.set_grad_checkpointing(True)
        options = {"gradient_checkpointing": checkpointing == "by_argument", "num_train_epochs": 1}
        trainer = run(tmp_path / checkpointing, model=student, method="ce", lr_decay_epochs=[], **options)
        norms = [m for m in student.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert {int(norm.num_batches_tracked) for norm in norms} == {trainer.state.global_step} == {6}
        ends.append(student.state_dict())
    for other in ends[1:]:
        torch.testing.assert_close(other, ends[0], rtol=1e-4, atol=1e-5)


def test_a_network_without_gradient_checkpointing_is_refused_before_the_training(tmp_path):
    student = network(name="test_resnet")
    student.set_grad_checkpointing = None
    with pytest.raises(ValueError, match="test_resnet has no gradient checkpointing.*leave"):
        make_trainer(tmp_path, model=student, gradient_checkpointing=True)


@pytest.mark.parametrize("layer", ["bn1", "layer1"])
def test_a_layer_that_a_callback_puts_in_eval_mode_trains_in_the_next_step(tmp_path, layer):
    student = network()
    getattr(student, layer).requires_grad_(True)
    student.layer3.requires_grad_(False)
    stop = Before(2, lambda: getattr(student, layer).eval())
    trainer = run(tmp_path, model=student, callbacks=[stop], **SHORT)
    trained = {
        int(m.num_batches_tracked) for n, m in student.named_modules() if n.endswith("bn1") and "layer3" not in n
    }
    assert trained == {trainer.state.global_step}
    # Frozen modules keep their statistics.
    assert not any(int(m.num_batches_tracked) for m in student.layer3.modules() if isinstance(m, torch.nn.BatchNorm2d))


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_full_evaluation_in_half_precision_leaves_full_weights(tmp_path, dtype):
    student, peer = network(), network(9)
    trainer = make_trainer(
        tmp_path, model=student, teacher=peer, eval_dataset=EVAL, **{f"{dtype}_full_eval": True}, **SHORT
    )
    plain = run(tmp_path / "plain", **SHORT)
    before = trainer.evaluate()
    assert before["eval_top1"] > 0
    trainer.train()
    trainer.evaluate()
    assert not differing(outcome(trainer), outcome(plain))
    assert {weight.dtype for one in (student, peer) for weight in one.parameters()} == {torch.float32}


def test_a_data_set_is_the_same_after_a_training(tmp_path):
    data = KnowledgeDataset(TRAIN, RECIPE, seed=3)
    data.set_epoch(5)
    before = data.selection_digest(), data[7]["pixel_values"], data.soft_labels
    for kcd in (PAPER, RELEASED):
        trainer = run(tmp_path, kcd, train_dataset=data)
        assert len(trainer.train_dataset) < len(data) == 88
        after = data.selection_digest(), data[7]["pixel_values"], data.soft_labels
        assert torch.equal(before[1], after[1]) and (before[0], before[2]) == (after[0], after[2])
    # And a mask of blended images.
    mask = trainer.knowledge_mask
    assert mask.mixing_history
    make_trainer(tmp_path, train_dataset=data, mask=mask)
    assert data.selection_digest() == before[0]


def test_soft_labels_leave_the_teacher_and_the_data_set_alone():
    data, teacher = KnowledgeDataset(TRAIN, RECIPE, seed=3), network(9).train()
    data.select(range(20))
    data.set_epoch(5)
    data.use_soft_labels(make_soft_labels(teacher, data, num_views=1))
    before = data[7]["pixel_values"], data[7]["teacher_logits"]
    make_soft_labels(teacher, data, num_views=3)
    assert torch.equal(data[7]["pixel_values"], before[0]) and torch.equal(data[7]["teacher_logits"], before[1])
    assert all(module.training for module in teacher.modules()) and len(data) == 20


def test_a_plain_data_set_keeps_its_format_and_its_transform(tmp_path):
    plain = TRAIN.with_format("numpy")
    run(tmp_path, train_dataset=plain, eval_dataset=EVAL.with_format("torch"), num_train_epochs=1, lr_decay_epochs=[])
    assert plain.format["type"] == "numpy" and isinstance(plain[0]["image"], np.ndarray)
    assert TRAIN.format["type"] is None and isinstance(TRAIN.features["image"], datasets.Image)


def test_two_runs_with_the_same_things_equal_two_runs_with_fresh_ones(tmp_path):
    def runs(folder, fresh: bool) -> list[dict]:
        args = config(tmp_path / folder, **SHORT)
        shared = {"teacher": network(9, name="test_resnet"), "train_dataset": KnowledgeDataset(TRAIN, RECIPE, seed=3)}
        ends = []
        for method in ("ofd", "kd", "unix", "ofd"):
            if fresh:
                args = config(tmp_path / folder, **SHORT)
                shared = {
                    "teacher": network(9, name="test_resnet"),
                    "train_dataset": KnowledgeDataset(TRAIN, RECIPE, seed=3),
                }
            own = copy.copy(args)
            own.method = method
            callback = KCDTrainerCallback(PAPER)
            torch.manual_seed(1)
            trainer = DistillationTrainer(network(), args=own, callbacks=[callback], **shared)
            trainer.train()
            ends.append(outcome(trainer))
        return ends

    together, alone = runs("together", fresh=False), runs("alone", fresh=True)
    assert [differing(one, other) for one, other in zip(together, alone, strict=True)] == [[]] * 4


def test_trainers_of_one_process_do_not_share_precision_and_accumulation(tmp_path):
    options = {"bf16": True, "gradient_accumulation_steps": 2, "eval_dataset": EVAL, **SHORT}
    alone = run(tmp_path / "alone", **options)
    metrics = alone.evaluate()
    first = make_trainer(tmp_path / "first", **options)
    # A trainer of other settings, and a configuration alone.
    run(tmp_path / "second", **SHORT)
    config(tmp_path)
    first.train()
    assert not differing(outcome(first), outcome(alone))
    config(tmp_path)
    assert first.evaluate()["eval_loss"] == metrics["eval_loss"]


def test_a_configuration_stays_as_it_was_passed(tmp_path):
    args = config(tmp_path, method="fitnet", method_options={"first_phase_epochs": 1}, **SHORT)
    before = copy.deepcopy(args.to_dict())
    data = KnowledgeDataset(TRAIN, RECIPE, seed=3)
    trainer = DistillationTrainer(network(), network(9), args, data)
    trainer.train()
    assert args.to_dict() == before and args.ddp_find_unused_parameters is False
    assert trainer.args.ddp_find_unused_parameters is True


def test_a_callback_serves_one_trainer(tmp_path):
    callback = KCDTrainerCallback(PAPER)
    first = make_trainer(tmp_path / "first", callbacks=[callback], **SHORT)
    fault = r"of another trainer: pass a new one, KCDTrainerCallback\(callback.config\)"
    with pytest.raises(ValueError, match=fault):
        make_trainer(tmp_path / "second", callbacks=[callback], **SHORT)
    with pytest.raises(ValueError, match=fault):
        make_trainer(tmp_path / "second", **SHORT).add_callback(callback)
    first.train()
    assert first.knowledge_mask is callback.mask
    make_trainer(tmp_path / "second", callbacks=[KCDTrainerCallback(callback.config)], **SHORT)
    # Its own trainer takes it back.
    first.remove_callback(callback)
    first.add_callback(callback)
    assert first.kcd is callback


CHANGES = {
    "selected": lambda data: data.select(range(20)),
    "mixed": lambda data: data.select(range(88), [1, *[-1] * 87], [0.3, *[0.0] * 87]),
    "blended": lambda data: data.blend([0], [1], [0.3]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_condensation_does_not_give_up_a_selection_without_a_word(tmp_path, change):
    data = KnowledgeDataset(TRAIN, RECIPE, seed=3)
    CHANGES[change](data)
    before = data.selection_digest()
    fault = r"starts from all points as they are, but .*select_all\(\) and restore_images\(\)"
    with pytest.raises(ValueError, match=fault):
        make_trainer(tmp_path / "run", PAPER, train_dataset=data)
    assert not (tmp_path / "run").exists()
    trainer = make_trainer(tmp_path / "run", train_dataset=data)
    with pytest.raises(ValueError, match=fault):
        trainer.add_callback(KCDTrainerCallback(PAPER))
    assert trainer.train_dataset.selection_digest() == data.selection_digest() == before and trainer.kcd is None
    # The way out.
    data.select_all()
    data.restore_images()
    make_trainer(tmp_path / "run", PAPER, train_dataset=data)


def test_a_mask_does_not_give_up_another_selection_without_a_word(tmp_path, finished):
    data, mask = KnowledgeDataset(TRAIN, RECIPE, seed=3), finished("paper").trainer.knowledge_mask
    data.select(range(20))
    with pytest.raises(ValueError, match=r"mask selects 44 points, but .*\(20 of 88 points\)"):
        make_trainer(tmp_path, train_dataset=data, mask=mask)
    data.apply(mask)
    make_trainer(tmp_path, train_dataset=data, mask=mask)


def test_convolutions_that_onednn_cannot_train_keep_the_contiguous_format(tmp_path, caplog):
    torch.manual_seed(0)
    student = timm.create_model("fastvit_t8", num_classes=4)
    data = KnowledgeDataset(TRAIN, RECIPE.for_network(96), seed=3)
    options = {
        "model": student,
        "method": "ce",
        "train_dataset": data,
        "max_steps": 3,
        "per_device_train_batch_size": 2,
    }
    trainer = run(tmp_path, num_train_epochs=1, lr_decay_epochs=[], **options)
    assert not trainer.args.channels_last and trainer.state.global_step == 3
    assert make_trainer(tmp_path).args.channels_last
