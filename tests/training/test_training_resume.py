"""A run that was cut off and resumed ends as one that was not: to the bit, wherever it was cut, with any workers."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from distillation_runs import (
    EVAL,
    PAPER,
    RECIPE,
    RELEASED,
    TRAIN,
    Interrupt,
    Interrupted,
    differing,
    dropout_network,
    losses,
    make_trainer,
    network,
    outcome,
)

from hf_kcd.data import KnowledgeDataset
from hf_kcd.training.checkpoint import missing_from_checkpoint

# Updates of an epoch: 6 5 5 4 4 3 for the paper (selections before epochs 1, 3, 5), 6 6 5 5 4 4 for the released code
# (before epochs 2 and 4), 2 2 2 2 2 1 with three batches to an update.
RUNS = {
    "paper": (PAPER, network, {}, (3, 6, 7, 9, 11, 26, 27)),
    "released_code": (RELEASED, network, {}, (9, 12, 13, 24)),
    "dropout": (PAPER, dropout_network, {}, (6, 9, 11)),
    "accumulation": (PAPER, dropout_network, {"gradient_accumulation_steps": 3}, (1, 2, 3, 9)),
    "random": (replace(PAPER, value="random"), dropout_network, {}, (8,)),
    "not_condensed": (None, dropout_network, {}, (6, 8)),
    "adamw": (PAPER, dropout_network, {"optim": "adamw_torch", "learning_rate": 1e-3}, (8,)),
    "evaluated": (PAPER, dropout_network, {"eval_dataset": EVAL, "eval_strategy": "epoch"}, (8, 11)),
}


def cut_off_and_resume(out: Path, step: int, kcd, make_student, **options):
    trainer = make_trainer(out, kcd, [Interrupt(step)], model=make_student(), **options)
    with pytest.raises(Interrupted):
        trainer.train()
    # Objects of their own, and a student of other weights: all comes from the checkpoint.
    trainer = make_trainer(out, kcd, model=make_student(seed=77), **options)
    trainer.train(resume_from_checkpoint=str(out / f"checkpoint-{step}"))
    return trainer


@pytest.mark.parametrize("run", RUNS)
def test_resuming_is_exact(tmp_path, run):
    kcd, make_student, options, steps = RUNS[run]
    whole = make_trainer(tmp_path / "whole", kcd, model=make_student(), **options)
    whole.train()
    for step in steps:
        resumed = cut_off_and_resume(tmp_path / str(step), step, kcd, make_student, **options)
        assert not differing(outcome(whole), outcome(resumed)), f"cut off after step {step}"
        assert losses(resumed) == losses(whole), f"cut off after step {step}"


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_change_nothing_not_even_over_an_interruption(tmp_path, persistent):
    whole = make_trainer(tmp_path / "whole", PAPER, model=dropout_network())
    whole.train()
    workers = {"dataloader_num_workers": 2, "dataloader_persistent_workers": persistent}
    with_workers = make_trainer(tmp_path / "workers", PAPER, model=dropout_network(), **workers)
    with_workers.train()
    assert not differing(outcome(whole), outcome(with_workers))
    resumed = cut_off_and_resume(tmp_path / "resumed", 8, PAPER, dropout_network, **workers)
    assert not differing(outcome(whole), outcome(resumed))


def test_resuming_twice_and_in_another_process(tmp_path):
    whole = make_trainer(tmp_path / "whole", PAPER, model=dropout_network())
    whole.train()
    for step, resume in ((4, None), (13, "checkpoint-4")):
        trainer = make_trainer(tmp_path, PAPER, [Interrupt(step)], model=dropout_network())
        with pytest.raises(Interrupted):
            trainer.train(resume_from_checkpoint=resume and str(tmp_path / resume))
    script = (
        "import sys, torch; from distillation_runs import *;"
        "trainer = make_trainer(sys.argv[1], PAPER, model=dropout_network(5)); trainer.train(resume_from_checkpoint=True);"
        "torch.save(outcome(trainer), sys.argv[1] + '/outcome.pt')"
    )
    folder = Path(__file__).parent
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=folder, check=True, capture_output=True)
    assert not differing(outcome(whole), torch.load(tmp_path / "outcome.pt", weights_only=True))


def test_evaluating_leaves_no_trace_in_the_training(tmp_path):
    plain = make_trainer(tmp_path / "plain", PAPER, model=dropout_network())
    plain.train()
    evaluated = make_trainer(
        tmp_path / "evaluated",
        PAPER,
        model=dropout_network(),
        eval_dataset=EVAL,
        eval_strategy="steps",
        eval_steps=4,
    )
    evaluated.train()
    assert not differing(outcome(plain), outcome(evaluated))


def saved_run(out: Path) -> None:
    make_trainer(out, PAPER, save_strategy="steps", save_steps=8, save_total_limit=None, max_steps=16).train()


def test_the_last_whole_checkpoint_is_found_whichever_file_of_the_last_was_cut_short(tmp_path):
    saved_run(tmp_path)
    last = tmp_path / "checkpoint-16"
    files = sorted(path.relative_to(last) for path in last.rglob("*") if path.is_file())
    # All that a run is taken up from; a file that joins them joins this test.
    assert {str(path) for path in files} == {
        "cost.json",
        "config.json",
        "kcd_state.safetensors",
        "mask/mask.safetensors",
        "mask/mask_config.json",
        "model.safetensors",
        "optimizer.pt",
        "rng_state.pth",
        "run.json",
        "scheduler.pt",
        "trainer_state.json",
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
    assert not missing_from_checkpoint(last)
    (last / "optimizer.pt").write_bytes((last / "optimizer.pt").read_bytes()[:-100])
    trainer = make_trainer(tmp_path, PAPER, max_steps=9)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.log_history[-2]["step"] == 9, "resumed from step 8"


def test_true_without_any_checkpoint_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no whole checkpoint to resume from"):
        make_trainer(tmp_path, PAPER).train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    ("what", "kcd", "options"),
    [
        ("schedule", replace(PAPER, final_ratio=0.6), {}),
        ("schedule", PAPER, {"num_train_epochs": 7}),
        ("schedule", PAPER, {"per_device_train_batch_size": 8}),
        ("condensation", replace(PAPER, cost_exponent=0.1), {}),
        ("condensation|schedule", None, {}),
        ("method", PAPER, {"method": "ce"}),
        ("method_options", PAPER, {"method_options": {"temperature": 2}}),
        ("seed", PAPER, {"seed": 4}),
        ("student", PAPER, {"model": "vit"}),
        ("labels differ", PAPER, {"train_dataset": "reversed"}),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path_factory, what, kcd, options):
    out = tmp_path_factory.getbasetemp() / "foreign"
    if not out.exists():
        saved_run(out)
    if options.get("model") == "vit":
        options = {"model": dropout_network()}
    if "train_dataset" in options:
        backwards = TRAIN.select(range(len(TRAIN) - 1, -1, -1))
        options = {"train_dataset": KnowledgeDataset(backwards, RECIPE, seed=3)}
    trainer = make_trainer(out, kcd, **options)
    before = {name: tensor.clone() for name, tensor in trainer.student.state_dict().items()}
    with pytest.raises(ValueError, match=rf"(?s)checkpoint-8 is of another run: .*({what})"):
        trainer.train(resume_from_checkpoint=str(out / "checkpoint-8"))
    assert not differing(before, trainer.student.state_dict())


def test_a_checkpoint_of_other_widths_is_refused(tmp_path):
    saved_run(tmp_path)
    trainer = make_trainer(tmp_path, PAPER, model=network(1))
    # The same name, and other shapes: a network that was changed by hand.
    trainer.model.student = network(1, "cifar_resnet8x4")
    trainer.student.pretrained_cfg["architecture"] = "cifar_resnet8"
    with pytest.raises(ValueError, match="was saved from another network"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))


def test_an_incomplete_checkpoint_named_by_hand_is_refused(tmp_path):
    saved_run(tmp_path)
    folder = tmp_path / "checkpoint-8"
    (folder / "kcd_state.safetensors").unlink()
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"no whole checkpoint.*kcd_state.safetensors, model.safetensors"):
        make_trainer(tmp_path, PAPER).train(resume_from_checkpoint=str(folder))


def test_keeping_all_points_is_plain_distillation_to_the_bit(tmp_path):
    everything = replace(PAPER, final_ratio=1.0)
    for preset in (everything, replace(RELEASED, final_ratio=1.0)):
        plain = make_trainer(tmp_path / "plain", model=dropout_network())
        plain.train()
        kept = make_trainer(tmp_path / "kept", preset, model=dropout_network())
        kept.train()
        mine, other = outcome(plain), outcome(kept)
        assert not differing(mine, {name: other[name] for name in mine})
        assert [{k: v for k, v in line.items() if k != "stage"} for line in losses(kept)] == losses(plain)
        assert kept.cost.relative_cost == kept.schedule.relative_cost == 1.0
        assert len(kept.knowledge_mask.kept) == len(kept.train_dataset) == 88
        assert (kept.knowledge_mask.partner == -1).all()


@pytest.mark.parametrize("preset", [PAPER, RELEASED])
def test_a_second_training_starts_over(tmp_path, preset):
    trainer = make_trainer(tmp_path, preset, method="spy")
    trainer.train()
    first, steps = trainer.cost.points, trainer.state.global_step
    trainer.method.steps.clear()
    trainer.train()
    assert trainer.cost.points == first and trainer.state.global_step == steps
    assert len(trainer.method.by_epoch("point_ids")[0]) == 88
    assert (trainer.method.steps[0]["partner_ids"] == -1).all()
    assert int(trainer.kcd.condenser.record.frequency.max()) <= 6
    # Also the images, into which the released code mixes for good.
    trainer.kcd.reset()
    for point in range(88):
        np.testing.assert_array_equal(trainer.train_dataset.image(point), np.asarray(TRAIN[point]["image"]))


def test_a_student_in_eval_mode_is_trained_in_train_mode(tmp_path):
    trainer = make_trainer(tmp_path, model=network().eval(), num_train_epochs=1)
    trainer.train()
    assert int(trainer.student.bn1.num_batches_tracked) == 6
    trainer.student.eval()
    trainer.train()
    assert int(trainer.student.bn1.num_batches_tracked) == 12


def test_resuming_takes_a_path_of_any_kind_and_a_copied_folder(tmp_path):
    saved_run(tmp_path / "run")
    shutil.copytree(tmp_path / "run" / "checkpoint-8", tmp_path / "copy")
    trainer = make_trainer(tmp_path / "other", PAPER, max_steps=9)
    trainer.train(resume_from_checkpoint=tmp_path / "copy")
    assert trainer.state.global_step == 9
