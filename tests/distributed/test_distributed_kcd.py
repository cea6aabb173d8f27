"""Condensation by two processes under torchrun (gloo, CPU): they select, step and record as one, and as a single process does."""

import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from hf_kcd import KnowledgeMask, load_model
from hf_kcd.artifacts.files import read_json
from hf_kcd.data import load_image_data

SCRIPT = Path(__file__).with_name("run_kcd.py")
TIME_LIMIT = 150
NUM_EPOCHS, EPOCHS_PER_STAGE, NUM_STAGES = 12, 4, 3
# Scenario: points, batch of a process, batches an update, points kept in a stage.
SHAPES = {
    "uneven": (301, 16, 1, lambda stage: math.floor(301 * 0.05 ** (stage / NUM_STAGES))),
    "accumulated": (203, 16, 2, lambda stage: math.floor(203 * 0.2 ** (stage / NUM_STAGES))),
    "drop_last": (301, 16, 1, lambda stage: math.floor(301 * 0.3 ** (stage / NUM_STAGES))),
    "adapter": (203, 16, 1, lambda stage: math.floor(203 * 0.5 ** (stage / NUM_STAGES))),
    "two_phases": (203, 16, 1, lambda stage: math.floor(203 * 0.5 ** (stage / NUM_STAGES))),
    "even": (384, 32, 1, lambda stage: 384 - 64 * stage),
    "even_accumulated": (384, 16, 2, lambda stage: 384 - 64 * stage),
}
PADDED = ("uneven", "accumulated", "adapter", "two_phases")

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="torch without gloo"
)


@dataclass
class Result:
    """What one process wrote about one scenario."""

    seen: dict[str, Any]
    tensors: dict[str, np.ndarray]

    @property
    def drawn(self) -> list[list[list[int]]]:
        """Point ids by epoch and batch."""
        return self.seen["drawn"]

    def part(self, prefix: str) -> dict[str, np.ndarray]:
        """The tensors under a name."""
        return {name: tensor for name, tensor in self.tensors.items() if name.startswith(f"{prefix}.")}


Launch = Callable[[str], list[Result]]


def launch(folder: Path, num_processes: int, *scenarios: str) -> None:
    """Run the script to its end; what it did is judged by its files, since gloo may abort at the interpreter's exit."""
    command = [sys.executable, str(SCRIPT), str(folder), str(TIME_LIMIT), *scenarios]
    if num_processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command[1:1] = ["-m", "torch.distributed.run", f"--nproc-per-node={num_processes}"]
        command[3:3] = ["--master-addr=127.0.0.1", f"--master-port={port}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(SCRIPT.parents[2])}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    try:
        # The processes end themselves at the limit, so that torchrun, which would outlive them, ends after it.
        output, _ = process.communicate(timeout=TIME_LIMIT + 30)
    except subprocess.TimeoutExpired:
        process.terminate()
        output, _ = process.communicate()
    missing = [
        f"{scenario}.rank{rank}.json"
        for scenario in scenarios
        for rank in range(num_processes)
        if not (folder / f"{scenario}.rank{rank}.json").is_file()
    ]
    if missing:
        pytest.fail(f"{missing} were not written. The end of the output:\n{output[-6000:]}")


def read(folder: Path, scenario: str, num_processes: int = 2) -> list[Result]:
    """Load what every process wrote about a scenario."""
    stems = [f"{scenario}.rank{rank}" for rank in range(num_processes)]
    return [Result(read_json(folder / f"{stem}.json"), load_file(folder / f"{stem}.safetensors")) for stem in stems]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have trained every scenario."""
    folder = tmp_path_factory.mktemp("two")
    launch(folder, 2, *SHAPES)
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> Launch:
    """Results of the two processes by scenario."""
    return lambda scenario: read(folder, scenario)


@pytest.fixture(scope="module")
def resumed(folder: Path) -> Launch:
    """Results of the scenarios that two fresh processes took up from a checkpoint."""
    launch(folder, 2, "uneven-resumed", "accumulated-resumed")
    return lambda scenario: read(folder, f"{scenario}-resumed")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a single process has trained with the batches that two have in a round."""
    folder = tmp_path_factory.mktemp("one")
    launch(folder, 1, "even", "even_accumulated")
    return folder


def stage(epoch: int) -> int:
    return math.ceil(epoch / EPOCHS_PER_STAGE)


def epochs_drawn(results: list[Result]) -> Iterator[list[int]]:
    """The point ids of every epoch, of both processes together."""
    for epoch in range(NUM_EPOCHS):
        yield list(chain.from_iterable(chain.from_iterable(result.drawn[epoch] for result in results)))


def assert_equal(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert first.keys() == second.keys() and first
    different = [name for name in first if not np.array_equal(first[name], second[name])]
    assert not different


@pytest.mark.parametrize("scenario", SHAPES)
def test_both_processes_select_the_planned_number_of_the_same_points(trained: Launch, scenario: str) -> None:
    first, second = trained(scenario)
    num_kept = SHAPES[scenario][3]
    assert first.seen["world_size"] == second.seen["world_size"] == 2
    assert first.seen["selected"] == second.seen["selected"]
    assert [len(ids) for ids in first.seen["selected"]] == [num_kept(stage(epoch)) for epoch in range(NUM_EPOCHS)]
    assert_equal(first.part("mask"), second.part("mask"))


@pytest.mark.parametrize("scenario", SHAPES)
def test_the_mask_of_each_stage_holds_what_was_trained_on(folder: Path, trained: Launch, scenario: str) -> None:
    output_dir = folder / ("adapter-by-rank0" if scenario == "adapter" else scenario)
    selected = trained(scenario)[1].seen["selected"]
    for epoch in range(1, NUM_EPOCHS):
        mask = KnowledgeMask.from_pretrained(output_dir / "stages" / f"stage-{stage(epoch):02d}")
        assert sorted(mask.kept.tolist()) == selected[epoch]


@pytest.mark.parametrize("scenario", SHAPES)
def test_both_processes_take_the_planned_steps_to_the_last_epochs_end(trained: Launch, scenario: str) -> None:
    _, batch_size, accumulation, num_kept = SHAPES[scenario]
    steps = 0
    for epoch in range(NUM_EPOCHS):
        size = num_kept(stage(epoch))
        batches = size // batch_size // 2 if scenario == "drop_last" else math.ceil(math.ceil(size / batch_size) / 2)
        steps += math.ceil(batches / accumulation)
        assert [len(result.drawn[epoch]) for result in trained(scenario)] == [batches, batches]
    for result in trained(scenario):
        assert result.seen["steps"] == result.seen["max_steps"] == steps
        assert result.seen["epoch"] == 12.0


def test_the_learning_rate_falls_once_an_update_whatever_the_number_of_processes(trained: Launch) -> None:
    assert [result.seen["learning_rate"] for result in trained("uneven")] == [pytest.approx(0, abs=1e-12)] * 2


@pytest.mark.parametrize("scenario", SHAPES)
def test_an_epoch_draws_its_selection(trained: Launch, scenario: str) -> None:
    results = trained(scenario)
    for drawn, selected in zip(epochs_drawn(results), results[0].seen["selected"], strict=True):
        if scenario == "drop_last":
            assert len(drawn) == len(set(drawn)) == len(selected) // 32 * 32
            assert set(drawn) <= set(selected)
        else:
            assert set(drawn) == set(selected)
            # Rounds are filled up with repeats where the selection does not divide by them.
            assert len(drawn) - len(selected) == -len(selected) % 32


@pytest.mark.parametrize("scenario", SHAPES)
def test_a_point_is_recorded_once_in_each_epoch_that_drew_it(trained: Launch, scenario: str) -> None:
    results = trained(scenario)
    epochs = np.zeros(SHAPES[scenario][0], dtype=np.int64)
    repeats = 0
    for drawn in epochs_drawn(results):
        epochs[sorted(set(drawn))] += 1
        repeats += len(drawn) - len(set(drawn))
    assert (repeats > 0) == (scenario in PADDED)
    assert epochs.max() <= NUM_EPOCHS
    for result in results:
        assert np.array_equal(result.tensors["record.frequency"], epochs)


@pytest.mark.parametrize("scenario", ["uneven", "drop_last"])
def test_the_value_of_a_point_is_its_mean_entropy_over_the_epochs(trained: Launch, scenario: str) -> None:
    results = trained(scenario)
    per_epoch = np.full((NUM_EPOCHS, SHAPES[scenario][0]), np.nan)
    for result in results:
        for epoch in range(NUM_EPOCHS):
            logits = result.tensors[f"logits.{epoch}"].astype(np.float64)
            odds = np.exp(logits - logits.max(1, keepdims=True))
            probability = odds / odds.sum(1, keepdims=True)
            entropy = -(probability * np.log(probability)).sum(1)
            # Of a point's repeats within an epoch the largest value counts.
            for point, value in zip(chain.from_iterable(result.drawn[epoch]), entropy, strict=True):
                per_epoch[epoch, point] = np.fmax(per_epoch[epoch, point], value)
    drawn = ~np.isnan(per_epoch).all(0)
    expected = np.where(drawn, np.nansum(per_epoch, 0) / np.maximum(1, (~np.isnan(per_epoch)).sum(0)), 0.0)
    for result in results:
        np.testing.assert_allclose(result.tensors["record.value"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scenario", SHAPES)
def test_the_account_states_all_points_drawn_with_their_repeats(trained: Launch, scenario: str) -> None:
    results = trained(scenario)
    drawn = [len(ids) for ids in epochs_drawn(results)]
    assert [result.seen["account"] for result in results] == [drawn, drawn]


@pytest.mark.parametrize("scenario", SHAPES)
def test_weights_are_the_same_on_both_processes(trained: Launch, scenario: str) -> None:
    first, second = trained(scenario)
    assert_equal(first.part("student"), second.part("student"))
    assert_equal(first.part("momentum"), second.part("momentum"))


@pytest.mark.parametrize("scenario", ["adapter", "two_phases"])
def test_the_layers_of_a_method_are_trained_as_one(trained: Launch, scenario: str) -> None:
    first, second = trained(scenario)
    assert set(first.part("method")) == {"method.adapter.weight", "method.adapter.bias"}
    assert not np.allclose(first.tensors["method.adapter.weight"], first.tensors["initial.adapter.weight"], atol=0.01)
    assert_equal(first.part("method"), second.part("method"))


def test_a_methods_layers_have_gradients_beside_the_student(trained: Launch) -> None:
    first, _ = trained("adapter")
    # Momentum is there for what has had a gradient: the adapter's two tensors beside the student's parameters.
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    num_parameters = sum(not name.endswith(statistics) for name in first.part("student"))
    assert len(first.part("momentum")) == num_parameters + 2


@pytest.mark.parametrize("scenario", ["uneven", "drop_last"])
def test_evaluation_counts_every_point_once_with_the_weights_that_are_saved(
    folder: Path, trained: Launch, scenario: str
) -> None:
    data = load_image_data("digits")
    num_points = 151
    images = np.stack([np.asarray(image.convert("RGB")) for image in data.eval[:num_points]["image"]])
    labels = data.eval[:num_points]["label"]
    pixels = (images / 255 - np.array(data.preprocessing.mean)) / np.array(data.preprocessing.std)
    student = load_model(folder / scenario / "final").eval()
    with torch.no_grad():
        logits = student(torch.from_numpy(pixels).permute(0, 3, 1, 2).float())
    ranked = logits.topk(5).indices.tolist()
    accuracy = 100 * sum(best == label for (best, *_), label in zip(ranked, labels, strict=True)) / num_points
    # Far enough from chance for a network's ranking to say which weights it has.
    assert accuracy > 20
    for result in trained(scenario):
        assert result.seen["labels"] == labels
        assert result.seen["predictions"] == ranked
        assert result.seen["top1"] == pytest.approx(accuracy)


def test_only_the_first_process_writes_but_for_each_ones_random_state(folder: Path, trained: Launch) -> None:
    trained("adapter")
    written = [
        {path.name for path in (folder / f"adapter-by-rank{rank}").rglob("*") if path.is_file()} for rank in range(2)
    ]
    assert written[1] == {"rng_state_1.pth"}
    assert {"model.safetensors", "method.safetensors", "kcd_state.safetensors", "mask.safetensors"} <= written[0]


@pytest.mark.parametrize("scenario", ["uneven", "accumulated"])
def test_a_run_resumed_within_an_epoch_is_the_uninterrupted_one_to_the_bit(
    trained: Launch, resumed: Launch, scenario: str
) -> None:
    for whole, rest in zip(trained(scenario), resumed(scenario), strict=True):
        first_epoch = NUM_EPOCHS - len(rest.drawn)
        num_left = len(rest.drawn[0])
        assert 0 < num_left < len(whole.drawn[first_epoch])
        assert rest.drawn == [whole.drawn[first_epoch][-num_left:], *whole.drawn[first_epoch + 1 :]]
        for prefix in ("student", "momentum", "mask", "record"):
            assert_equal(whole.part(prefix), rest.part(prefix))
        for name in ("steps", "epoch", "account", "top1", "predictions"):
            assert whole.seen[name] == rest.seen[name]


@pytest.mark.parametrize("scenario", ["even", "even_accumulated"])
def test_two_processes_train_as_one_does_with_their_batches_together(
    folder: Path, alone: Path, trained: Launch, scenario: str
) -> None:
    (single,) = read(alone, scenario, num_processes=1)
    assert single.seen["world_size"] == 1
    double = trained(scenario)[0]
    assert single.seen["steps"] == double.seen["steps"]
    assert single.seen["account"] == double.seen["account"]
    for number in range(1, NUM_STAGES + 1):
        masks = [
            KnowledgeMask.from_pretrained(where / scenario / "stages" / f"stage-{number:02d}")
            for where in (alone, folder)
        ]
        assert len(masks[0].kept) == len(masks[1].kept)
        # A tie at the limit may be broken by rounding; anything else is another selection.
        score = (masks[0].value * masks[0].frequency.double() ** 0.03).numpy()
        limit = score[masks[0].kept[-1]]
        different = (masks[0].kept_mask ^ masks[1].kept_mask).numpy()
        assert (np.abs(score[different] - limit) < 1e-9 * limit).all()
        assert different.sum() <= 4
    for name, weight in single.part("student").items():
        np.testing.assert_allclose(double.tensors[name], weight, atol=1e-9, err_msg=name)
