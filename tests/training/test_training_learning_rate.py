"""Learning rates of transformers' schedulers over epochs that shrink, and optimizers of transformers and timm."""

import math

import pytest
import torch
import transformers
from tiny_runs import (
    EVAL,
    NUM_CLASSES,
    PAPER,
    Interrupted,
    SaveAt,
    Watch,
    assert_same_end,
    dropout_network,
    make_trainer,
    network,
    run_training,
)

# Steps of each epoch of a run with PAPER, and of one without condensation.
CONDENSED, WHOLE = [6, 5, 5, 4, 4, 3], [6] * 6
SCHEDULERS = {
    "linear": {},
    "cosine": {"warmup_steps": 5},
    "cosine_with_restarts": {"warmup_steps": 0.1, "lr_scheduler_kwargs": {"num_cycles": 3}},
    "polynomial": {"warmup_steps": 4, "lr_scheduler_kwargs": {"power": 2.0, "lr_end": 0.001}},
    "constant": {},
    "constant_with_warmup": {"warmup_steps": 7},
    "inverse_sqrt": {"warmup_steps": 3},
    "cosine_with_min_lr": {"warmup_steps": 2, "lr_scheduler_kwargs": {"min_lr": 0.01}},
    "cosine_warmup_with_min_lr": {"warmup_steps": 6, "lr_scheduler_kwargs": {"min_lr_rate": 0.1}},
    "warmup_stable_decay": {"warmup_steps": 6, "lr_scheduler_kwargs": {"num_decay_steps": 12}},
}
FOLLOW_METRIC = ("reduce_lr_on_plateau", "greedy")


def rates(folder, kcd=None, **options) -> list[float]:
    watch = Watch()
    run_training(folder, kcd, [watch], **options)
    return watch.rates


def test_each_scheduler_of_transformers_is_tried_here():
    assert {one.value for one in transformers.SchedulerType} == {*SCHEDULERS, *FOLLOW_METRIC}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_without_condensation_a_scheduler_gives_what_it_gives_in_transformers(tmp_path, name):
    options = SCHEDULERS[name]
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.05)
    share = options.get("warmup_steps", 0)
    theirs = transformers.get_scheduler(
        name,
        optimizer,
        num_warmup_steps=math.ceil(36 * share) if share < 1 else share,
        num_training_steps=36,
        scheduler_specific_kwargs=options.get("lr_scheduler_kwargs"),
    )
    expected = []
    for _ in range(36):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert rates(tmp_path, lr_scheduler_type=name, **options) == expected


def test_over_shrinking_epochs_a_scheduler_is_a_function_of_epochs(tmp_path):
    times = [epoch + step / steps for epoch, steps in enumerate(CONDENSED) for step in range(steps)]
    linear = rates(tmp_path / "linear", PAPER, lr_scheduler_type="linear")
    assert linear == pytest.approx([0.05 * (1 - time / 6) for time in times], rel=1e-9)
    # Two cycles over six epochs: the second starts with epoch 3, whatever its steps.
    options = {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 2}}
    restarts = rates(tmp_path / "restarts", PAPER, **options)
    expected = [0.025 * (1 + math.cos(math.pi * (time / 3 % 1))) for time in times]
    assert restarts == pytest.approx(expected, rel=1e-9) and restarts[sum(CONDENSED[:3])] == 0.05


@pytest.mark.parametrize(("warmup", "ends"), [(8, 8), (0.5, 16)])
def test_warm_up_lasts_as_many_updates_or_as_large_a_share_of_the_epochs_as_is_said(tmp_path, warmup, ends):
    given = rates(tmp_path, PAPER, lr_scheduler_type="constant_with_warmup", warmup_steps=warmup)
    # 16 updates are the first three epochs of six. 27 * 0.5 is rounded up to 14, as in transformers.
    last = ends if warmup > 1 else 17
    assert given[0] == 0 and given[last:] == [0.05] * (27 - last)
    assert given[:last] == sorted(set(given[:last])) and given[ends - 1] < 0.05


@pytest.mark.parametrize(
    ("scores", "expected"), [([1, 2, 3, 4, 5, 6], [1] * 6), ([6, 5, 4, 3, 2, 1], [1, 1, 0.5, 0.25, 0.125, 0.0625])]
)
def test_reduce_on_plateau_knows_that_an_accuracy_should_rise(tmp_path, scores, expected):
    remaining = iter(scores)
    options = {"compute_metrics": lambda prediction: {"score": next(remaining)}, "metric_for_best_model": "score"}
    options |= {"eval_strategy": "epoch", "eval_dataset": EVAL, "lr_scheduler_type": "reduce_lr_on_plateau"}
    given = rates(tmp_path, lr_scheduler_kwargs={"factor": 0.5, "patience": 0}, **options)
    assert given == [0.05 * factor for factor in expected for _ in range(6)]


def test_a_scheduler_that_follows_evaluations_needs_some(tmp_path):
    trainer = make_trainer(tmp_path, eval_dataset=EVAL, lr_scheduler_type="greedy", eval_strategy="epoch")
    # The command line turns evaluation off where a data set has no test split.
    trainer.args.eval_strategy = "no"
    with pytest.raises(ValueError, match="greedy.*follows evaluations.*eval_strategy"):
        type(trainer)(network(), network(9), trainer.args, trainer.train_dataset)


RESUMED = {
    "polynomial": {"lr_scheduler_type": "polynomial", "warmup_steps": 4},
    "reduce_lr_on_plateau": {
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "lr_scheduler_kwargs": {"patience": 0, "threshold": 50.0},
        "eval_strategy": "epoch",
        "eval_dataset": EVAL,
    },
    "greedy": {"lr_scheduler_type": "greedy", "eval_strategy": "epoch", "eval_dataset": EVAL},
    "timm": {
        "optim": "timm:adamw",
        "optim_args": "layer_decay=0.5",
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.2,
    },
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_has_the_same_bits(tmp_path, name):
    whole = run_training(tmp_path / "whole", PAPER, **RESUMED[name])
    with pytest.raises(Interrupted):
        run_training(tmp_path / "cut", PAPER, [SaveAt(13, then_stop=True)], **RESUMED[name])
    resumed = make_trainer(tmp_path / "cut", PAPER, **RESUMED[name])
    resumed.train(resume_from_checkpoint=True)
    assert_same_end(whole, resumed)


@pytest.mark.parametrize(
    "name",
    ["adamw_torch", "adamw_torch_fused", "adafactor", "rmsprop", "adagrad", "timm:lamb", "timm:muon", "timm:sgd"],
)
def test_an_optimizer_trains_student_and_adapters(tmp_path, name):
    trainer = make_trainer(tmp_path, method="fitnet", optim=name, learning_rate=1e-3, num_train_epochs=1)
    before = {key: weight.detach().clone() for key, weight in trainer.model.named_parameters()}
    trainer.train()
    still = [key for key, weight in trainer.model.named_parameters() if torch.equal(weight, before[key])]
    assert not still


def test_layer_wise_rates_fall_from_head_to_stem_and_adapters_learn_at_the_full_rate(tmp_path):
    options = {"optim": "timm:adamw", "optim_args": "layer_decay=0.5", "learning_rate": 0.01, "weight_decay": 0.1}
    watch = Watch()
    student = dropout_network()
    trainer = make_trainer(tmp_path, callbacks=[watch], method="crd", model=student, num_train_epochs=1, **options)
    trainer.train()
    names = {id(weight): name for name, weight in trainer.model.named_parameters()}
    found = {
        names[id(weight)]: (group["initial_lr"], group["weight_decay"])
        for group in trainer.optimizer.param_groups
        for weight in group["params"]
    }
    assert sorted(found) == sorted(names.values())
    # A ViT of one block: embeddings, the block with the norm behind it, the head.
    assert found["student.patch_embed.proj.weight"] == (0.0025, 0.1) and found["student.cls_token"] == (0.0025, 0.0)
    assert found["student.blocks.0.attn.qkv.weight"] == (0.005, 0.1)
    assert found["student.blocks.0.attn.qkv.bias"] == (0.005, 0.0)
    assert found["student.head.weight"] == (0.01, 0.1) and found["student.norm.weight"] == (0.005, 0.0)
    adapters = {name: rate for name, rate in found.items() if name.startswith("method.")}
    assert adapters and {rate for rate, _ in adapters.values()} == {0.01}
    # The log shows the full rate.
    assert watch.rates[0] == 0.01 and trainer.state.log_history[0]["learning_rate"] == 0.01
    assert student.head.out_features == NUM_CLASSES


def test_timms_groups_can_decay_all_weights(tmp_path):
    options = {"optim": "timm:adamw", "learning_rate": 1e-3, "weight_decay": 0.1, "model": network()}
    for optim_args, decays in ((None, {0.1, 0.0}), ("filter_bias_and_bn=false", {0.1})):
        trainer = make_trainer(tmp_path, optim_args=optim_args, **options)
        trainer.create_optimizer()
        assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == decays


def test_settings_of_the_optimizer_arrive(tmp_path):
    rate = {"learning_rate": 1e-3}
    for options, expected in (
        ({"optim": "sgd", "optim_args": "dampening=0.1"}, {"dampening": 0.1, "momentum": 0.9, "lr": 0.05}),
        (
            {"optim": "rmsprop", "optim_args": "momentum=0.8,centered=true", **rate},
            {"momentum": 0.8, "centered": True},
        ),
        ({"optim": "adamw_torch", "adam_beta1": 0.8, **rate}, {"betas": (0.8, 0.999)}),
        ({"optim": "timm:sgd", "momentum": 0.8}, {"momentum": 0.8, "nesterov": True, "lr": 0.05}),
        (
            {"optim": "timm:adamw", "optim_args": "betas=(0.8,0.9),eps=1e-6", **rate},
            {"betas": (0.8, 0.9), "eps": 1e-6},
        ),
    ):
        trainer = make_trainer(tmp_path, **{"learning_rate": None, **options})
        trainer.create_optimizer()
        group = trainer.optimizer.param_groups[0]
        assert {name: group[name] for name in expected} == expected
