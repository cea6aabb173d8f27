"""A run that was cut off and resumed ends as one that was not: to the bit, wherever it was cut, with any workers."""

import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_runs import (
    EVAL,
    PAPER,
    RECIPE,
    RELEASED,
    TRAIN,
    Before,
    Interrupted,
    SaveAt,
    assert_same_end,
    differing,
    dropout_network,
    losses,
    make_trainer,
    network,
    outcome,
    run_training,
)

from hf_kcd.data import KnowledgeDataset
from hf_kcd.models import save_model
from hf_kcd.training.checkpoint import last_whole_checkpoint, missing_from_checkpoint
from hf_kcd.training.interruption import TrainingStopped, interruptible

# Updates of an epoch: 6 5 5 4 4 3 for the paper (selections before epochs 1, 3, 5), 6 6 5 5 4 4 for the released code
# (before epochs 2 and 4), 2 2 2 2 2 1 with three batches to an update.
RUNS = {
    "paper": (PAPER, network, {}, (3, 6, 7, 11, 26, 27)),
    "released_code": (RELEASED, network, {}, (9, 12, 24)),
    "dropout": (PAPER, dropout_network, {}, (6, 9, 11)),
    "accumulation": (PAPER, dropout_network, {"gradient_accumulation_steps": 3}, (1, 2, 3, 9)),
    "random": (replace(PAPER, value="random"), dropout_network, {}, (8,)),
    "not_condensed": (None, dropout_network, {"num_train_epochs": 2, "lr_decay_epochs": [1]}, (6, 8)),
    "adamw": (PAPER, dropout_network, {"optim": "adamw_torch", "learning_rate": 1e-3}, (16,)),
    "evaluated": (PAPER, dropout_network, {"eval_dataset": EVAL, "eval_strategy": "epoch"}, (16,)),
    "workers": (PAPER, dropout_network, {"dataloader_num_workers": 2}, (16,)),
    "persistent": (PAPER, dropout_network, {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}, (8,)),
}
LIKE_DROPOUT = ("dropout", "evaluated", "workers", "persistent")


@pytest.mark.parametrize("run", RUNS)
def test_resuming_is_exact(tmp_path, finished, run):
    kcd, make_student, options, steps = RUNS[run]
    saves = {"save_total_limit": None, **options}
    whole = run_training(tmp_path / "whole", kcd, [SaveAt(*steps)], model=make_student(), **saves)
    if run in LIKE_DROPOUT:
        # Saving, evaluating and workers leave no trace in a training.
        assert_same_end(finished("dropout").trainer, whole)
    for step in steps:
        # New objects, and a student of other weights: everything comes from the checkpoint.
        resumed = make_trainer(tmp_path / str(step), kcd, model=make_student(seed=77), **options)
        resumed.train(resume_from_checkpoint=tmp_path / "whole" / f"checkpoint-{step}")
        assert_same_end(whole, resumed, f"cut off after step {step}")
        assert losses(resumed) == losses(whole), f"cut off after step {step}"


def test_resuming_twice_and_in_another_process(tmp_path, finished):
    for step, resume in ((4, None), (13, "checkpoint-4")):
        cut = SaveAt(step, then_stop=True)
        trainer = make_trainer(tmp_path, PAPER, [cut], model=dropout_network())
        with pytest.raises(Interrupted):
            trainer.train(resume_from_checkpoint=resume and str(tmp_path / resume))
    script = (
        "import sys, torch; from tiny_runs import *;"
        "trainer = make_trainer(sys.argv[1], PAPER, model=dropout_network(5)); trainer.train(resume_from_checkpoint=True);"
        "torch.save(outcome(trainer), sys.argv[1] + '/outcome.pt');"
        "assert 'matplotlib' not in sys.modules, 'only publishing draws'"
    )
    folder = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=folder, check=True, capture_output=True)
    resumed = torch.load(tmp_path / "outcome.pt", weights_only=True)
    assert not differing(outcome(finished("dropout").trainer), resumed)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A run with checkpoints after steps 8 and 16; tests that change it copy it."""
    folder = tmp_path_factory.mktemp("saved")
    options = {"save_strategy": "steps", "save_steps": 8, "save_total_limit": None, "max_steps": 16}
    run_training(folder, PAPER, **options)
    return folder


def test_the_last_whole_checkpoint_is_found_whichever_file_of_the_last_was_cut_short(tmp_path, saved):
    run = shutil.copytree(saved, tmp_path / "run")
    last = run / "checkpoint-16"
    files = sorted(path.relative_to(last) for path in last.rglob("*") if path.is_file())
    # All that a run is resumed from; a file that joins them joins this test.
    assert {str(path) for path in files} == {
        *("config.json", "cost.json", "run.json", "trainer_state.json"),
        *("model.safetensors", "kcd_state.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"),
    }
    for name in files:
        content = (last / name).read_bytes()
        for rest in (b"", content[: len(content) // 2], content[:-1], None):
            if rest is None:
                (last / name).unlink()
            else:
                (last / name).write_bytes(rest)
            if not (rest == content[:-1] and content.endswith(b"\n")):
                assert missing_from_checkpoint(last), f"{name} of {len(content)} bytes passes as {rest and len(rest)}"
            (last / name).write_bytes(content)
    # By number: as text, checkpoint-8 comes after checkpoint-16.
    assert not missing_from_checkpoint(last) and last_whole_checkpoint(run) == last
    (last / "optimizer.pt").write_bytes((last / "optimizer.pt").read_bytes()[:-100])
    trainer = make_trainer(run, PAPER, max_steps=9)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.log_history[-2]["step"] == 9, "resumed from step 8"

    first = run / "checkpoint-8"
    (first / "kcd_state.safetensors").unlink()
    (first / "model.safetensors").write_bytes((first / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"not a whole checkpoint.*kcd_state.safetensors, model.safetensors"):
        make_trainer(run, PAPER).train(resume_from_checkpoint=str(first))
    with pytest.raises(FileNotFoundError, match="no whole checkpoint to resume from"):
        make_trainer(run, PAPER).train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    ("message", "kcd", "options"),
    [
        ("schedule", replace(PAPER, final_ratio=0.6), {}),
        ("schedule", PAPER, {"num_train_epochs": 7}),
        ("schedule", PAPER, {"per_device_train_batch_size": 8}),
        ("condensation", replace(PAPER, cost_exponent=0.1), {}),
        ("(condensation|schedule)", None, {}),
        ("method", PAPER, {"method": "ce"}),
        ("method_options", PAPER, {"method_options": {"temperature": 2}}),
        ("seed", PAPER, {"seed": 4}),
        ("learning_rate is 0.01 here and 0.05 there", PAPER, {"learning_rate": 0.01}),
        ("weight_decay", PAPER, {"weight_decay": 0.1}),
        ("max_grad_norm", PAPER, {"max_grad_norm": 1.0}),
        ("precision is bf16", PAPER, {"bf16": True}),
        ("optimiser", PAPER, {"optim": "adamw_torch", "learning_rate": 0.05}),
        ("optim_args", PAPER, {"optim_args": "dampening=0.1"}),
        ("lr_schedule is linear", PAPER, {"lr_scheduler_type": "linear"}),
        ("teachers is .'cifar_resnet8x4'. here", PAPER, {"teacher": lambda: network(9, "cifar_resnet8x4")}),
        ("data_seed", PAPER, {"data_seed": 4}),
        ("seed of the augmentation", PAPER, {"train_dataset": lambda: KnowledgeDataset(TRAIN, RECIPE, seed=4)}),
        ("student", PAPER, {"model": dropout_network}),
        ("images", PAPER, {"train_dataset": lambda: KnowledgeDataset(TRAIN, replace(RECIPE, padding=2))}),
        ("labels differ", PAPER, {"train_dataset": lambda: KnowledgeDataset(TRAIN.select(range(88)[::-1]), RECIPE)}),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(saved, message, kcd, options):
    made = {name: value() if callable(value) else value for name, value in options.items()}
    trainer = make_trainer(saved, kcd, **made)
    before = {name: tensor.clone() for name, tensor in trainer.student.state_dict().items()}
    with pytest.raises(ValueError, match=f"(?s)checkpoint-8 is of another run: .*{message}"):
        trainer.train(resume_from_checkpoint=str(saved / "checkpoint-8"))
    assert not differing(before, trainer.student.state_dict())


def selected(change: str = "") -> KnowledgeDataset:
    """Forty points, and one change to them."""
    data = KnowledgeDataset(TRAIN, RECIPE, seed=3)
    first, rest = (1, [0.3]) if change == "mixed" else (-1, [0.0])
    data.select(range(1, 41) if change == "others" else range(40), [first, *[-1] * 39], [*rest, *[0.0] * 39])
    if change == "blended":
        data.blend([0], [1], [0.3])
    return data


@pytest.fixture(scope="module")
def saved_selection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("selected")
    run_training(folder, callbacks=[SaveAt(2)], train_dataset=selected(), max_steps=2)
    return folder


@pytest.mark.parametrize("change", ["others", "mixed", "blended"])
def test_a_checkpoint_of_another_selection_is_refused(saved_selection, change):
    trainer = make_trainer(saved_selection, train_dataset=selected(change), max_steps=3)
    with pytest.raises(ValueError, match="of another run: selection is 40 points .* here and 40 points .* there"):
        trainer.train(resume_from_checkpoint=True)


def test_a_run_on_a_selection_is_resumed_to_the_bit(saved_selection, tmp_path):
    trainer = make_trainer(saved_selection, train_dataset=selected(), max_steps=3)
    trainer.train(resume_from_checkpoint=True)
    alone = run_training(tmp_path, train_dataset=selected(), max_steps=3)
    assert not differing(outcome(trainer), outcome(alone))


def test_a_checkpoint_with_weights_of_another_network_is_refused(saved, tmp_path):
    shutil.copytree(saved / "checkpoint-8", tmp_path / "checkpoint-8")
    save_model(network(1, "cifar_resnet8x4"), tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", tmp_path / "checkpoint-8")
    with pytest.raises(ValueError, match="(?s)model.safetensors was saved from another network"):
        make_trainer(tmp_path, PAPER).train(resume_from_checkpoint=True)


def test_a_checkpoint_of_other_layers_is_refused(tmp_path):
    # A method with other maps and equal adapters: nothing in the weights tells.
    options = {"method": "at", "student_layers": [0, 1], "teacher_layers": [0, 1]}
    run_training(tmp_path, None, [SaveAt(1)], max_steps=1, **options)
    for name in ("student_layers", "teacher_layers"):
        trainer = make_trainer(tmp_path, **{**options, name: [1, 2], "teacher": network(9)})
        with pytest.raises(ValueError, match=rf"another run: {name} is \[1, 2\] here and \[0, 1\] there"):
            trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_a_checkpoint_of_other_points_is_refused(tmp_path):
    # Equally many, so that the schedules are equal.
    def selected(points):
        dataset = KnowledgeDataset(TRAIN, RECIPE, seed=3)
        dataset.select(points)
        return dataset

    run_training(tmp_path, callbacks=[SaveAt(1)], max_steps=1, train_dataset=selected(range(44)))
    trainer = make_trainer(tmp_path, train_dataset=selected(range(44, 88)))
    with pytest.raises(ValueError, match="another run: selection"):
        trainer.train(resume_from_checkpoint=True)
    make_trainer(tmp_path, train_dataset=selected(range(44))).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("preset", [PAPER, RELEASED])
def test_keeping_all_points_is_plain_distillation_to_the_bit(tmp_path, preset):
    options = {"num_train_epochs": 4, "lr_decay_epochs": [3]}
    plain = run_training(tmp_path / "plain", model=dropout_network(), **options)
    kept = run_training(tmp_path / "kept", replace(preset, final_ratio=1.0), model=dropout_network(), **options)
    mine, other = outcome(plain), outcome(kept)
    assert not differing(mine, {name: other[name] for name in mine})
    assert [{k: v for k, v in line.items() if k != "stage"} for line in losses(kept)] == losses(plain)
    assert kept.cost.relative_cost == kept.schedule.relative_cost == 1.0
    assert len(kept.knowledge_mask.kept) == len(kept.train_dataset) == 88
    assert (kept.knowledge_mask.partner == -1).all()


def test_a_student_in_eval_mode_is_trained_in_train_mode(tmp_path):
    trainer = run_training(tmp_path, model=network().eval(), num_train_epochs=1)
    assert int(trainer.student.bn1.num_batches_tracked) == 6
    trainer.student.eval()
    trainer.train()
    assert int(trainer.student.bn1.num_batches_tracked) == 12


class Dying:
    """Gets Ctrl-C while it is being destroyed, where Python prints exceptions and goes on."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)
        # The handler runs between two instructions of the interpreter: here.
        [None for _ in range(10)]


# In the paper's run, an epoch ends with step 6: its evaluation comes before the checkpoint.
@pytest.mark.parametrize(("step", "stopped"), [(2, 3), (5, 6), (6, 7)])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_stops_a_training_behind_a_checkpoint_that_resumes_exactly(tmp_path, finished, name, step, stopped):
    number = signal.Signals[name]
    action = Dying if name == "SIGINT" else lambda: signal.raise_signal(number)
    before, evaluated = signal.getsignal(number), {"eval_dataset": EVAL, "eval_strategy": "epoch"}
    cut = make_trainer(tmp_path, PAPER, [Before(step, action)], model=dropout_network(), **evaluated)
    with pytest.raises(TrainingStopped, match=f"after step {stopped} of 27"), interruptible(cut):
        cut.train()
    assert signal.getsignal(number) is before
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == [f"checkpoint-{stopped}"]
    assert len([line for line in cut.state.log_history if "eval_loss" in line]) == (stopped >= 6)
    resumed = make_trainer(tmp_path, PAPER, model=dropout_network(7), **evaluated)
    resumed.train(resume_from_checkpoint=True)
    assert_same_end(finished("dropout").trainer, resumed)
    assert [line["epoch"] for line in resumed.state.log_history if "eval_loss" in line] == [1, 2, 3, 4, 5, 6]


def test_a_second_interrupt_stops_at_once(tmp_path):
    def press_twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    trainer = make_trainer(tmp_path, callbacks=[Before(2, press_twice)], method="ce")
    with pytest.raises(KeyboardInterrupt), interruptible(trainer):
        trainer.train()
    assert trainer.state.global_step == 2 and not list(tmp_path.glob("checkpoint-*"))
