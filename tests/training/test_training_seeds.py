"""A run is a function of its seed: whatever was drawn before it, in this process or in another one."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import RECIPE, TRAIN, config, differing, dropout_network, network, outcome

from hf_kcd.cli.main import main
from hf_kcd.data import KnowledgeDataset
from hf_kcd.methods import available_methods
from hf_kcd.methods.registry import get_method
from hf_kcd.training import DistillationTrainer

METHODS = [name for name in available_methods() if get_method(name).__module__.startswith("hf_kcd.")]


def draw_before(number: int) -> None:
    """Leave the global generators in another state for each number, as other code of a program does."""
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(number)
    torch.rand(number)


def make(out: Path, method: str = "kd", student=None, drawn: int = 0, **options) -> DistillationTrainer:
    """A trainer of ready networks, made after numbers were drawn."""
    cls = get_method(method)
    student, teachers = student or network(), [network(9), network(8)][: 2 if cls.many_teachers else 1]
    short = {"first_phase_epochs": 1} if method in ("sskd", "ft") else {}
    args = config(out, method=method, method_options=short, **options)
    data = KnowledgeDataset(TRAIN, RECIPE, seed=3)
    draw_before(drawn)
    return DistillationTrainer(student, teachers if cls.teacher_reads else None, args, data)


@pytest.mark.parametrize("method", METHODS)
def test_the_first_weights_of_a_method_depend_on_the_seed_alone(tmp_path, method):
    one, other = (make(tmp_path, method, drawn=number) for number in (1, 2))
    assert not differing(one.method.state_dict(), other.method.state_dict())
    assert not differing(one.student.state_dict(), network().state_dict()), "what comes ready made keeps its weights"


def test_another_seed_gives_other_first_weights(tmp_path):
    one, other = (make(tmp_path, "crd", seed=seed).method.state_dict() for seed in (3, 4))
    assert {"student_projection.weight", "memory.seed"} <= set(differing(one, other))


def test_networks_made_from_names_depend_on_the_seed_alone(tmp_path):
    ends = []
    for number in (1, 2):
        draw_before(number)
        trainer = DistillationTrainer("cifar_resnet8", "cifar_resnet20", config(tmp_path), TRAIN)
        ends.append(trainer.student.state_dict() | {f"t.{k}": v for k, v in trainer.teacher.state_dict().items()})
    assert not differing(*ends)


# Dropout, a drawn mixing, a drawn choice of teachers; and the order of the points in all of them.
@pytest.mark.parametrize(("method", "student"), [("kd", dropout_network), ("unix", network), ("dgkd", network)])
def test_what_is_drawn_between_construction_and_training_changes_nothing(tmp_path, method, student):
    options = {"num_train_epochs": 1, "logging_strategy": "no"}
    alone = make(tmp_path, method, student(), **options)
    alone.train()
    first = make(tmp_path, method, student(), **options)
    between = make(tmp_path, method, student(), seed=4, **options)
    draw_before(2)
    between.train()
    first.train()
    assert not differing(outcome(alone), outcome(first))
    assert differing(outcome(alone), outcome(between))


def test_a_plain_data_set_is_augmented_with_the_seed_of_the_run(tmp_path):
    def end(train_dataset, seed: int) -> dict:
        # The order of the points has a seed of its own, so that only the crops differ.
        args = config(tmp_path, num_train_epochs=1, seed=seed, data_seed=1, logging_strategy="no", max_steps=2)
        trainer = DistillationTrainer(network(), network(9), args, train_dataset)
        trainer.train()
        return outcome(trainer)

    plain, other = end(TRAIN, 3), end(TRAIN, 4)
    assert differing(plain, other)
    assert not differing(plain, end(KnowledgeDataset(TRAIN, seed=3), 3))
    assert not differing(plain, end(KnowledgeDataset(TRAIN, seed=3), 4))


def test_the_command_line_augments_with_its_seed(tmp_path):
    start = timm.create_model("cifar_resnet8", num_classes=10)
    save_file(start.state_dict(), tmp_path / "start.safetensors")
    words = "train-teacher --data digits --train_points 40 --network cifar_resnet8 --num_train_epochs 1 --use_cpu true"
    words += f" --student_checkpoint {tmp_path / 'start.safetensors'} --data_seed 1 --plots false --report_to none"
    ends = []
    for name, seed in {"one": 3, "again": 3, "other": 4}.items():
        main([*words.split(), "--output_dir", str(tmp_path / name), "--seed", str(seed)])
        ends.append(load_file(tmp_path / name / "model.safetensors"))
    one, again, other = ends
    assert not differing(one, again)
    assert differing(one, other)


SCRIPT = """
import hashlib, sys
sys.path[:0] = [{tests!r}, {tests!r} + "/training"]
from test_training_seeds import make
from tiny_runs import outcome

for method in {methods}:
    trainer = make({out!r}, method, drawn={number}, max_steps=2, logging_strategy="no")
    trainer.train()
    digest = hashlib.sha256()
    for name, tensor in sorted(outcome(trainer).items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    print("DIGEST", method, digest.hexdigest())
"""


def test_two_processes_of_one_seed_end_with_the_same_bits(tmp_path):
    methods = ["crd", "fitnet", "vid", "dml", "sskd", "reviewkd", "slkd"]
    tests = str(Path(__file__).parents[1])
    processes = []
    for number in (1, 2):
        script = SCRIPT.format(tests=tests, number=number, methods=methods, out=str(tmp_path / str(number)))
        # Names in sets come in another order in each process.
        environment = {**os.environ, "PYTHONHASHSEED": str(number)}
        command = [sys.executable, "-c", script]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    one, other = ([line for line in output.splitlines() if line.startswith("DIGEST")] for output in outputs)
    assert len(one) == len(methods)
    assert one == other
