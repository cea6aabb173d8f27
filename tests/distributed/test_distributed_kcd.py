"""Condensation by two processes: they select, step and record as one, and as a single process does."""

import math
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import run_kcd
import torch
from run_kcd import EPOCHS_PER_STAGE, NUM_EPOCHS, NUM_EVAL_POINTS
from safetensors.numpy import load_file
from small_runs import assert_equal

from hf_kcd import KnowledgeMask, load_model
from hf_kcd.artifacts.files import read_json
from hf_kcd.data import load_image_data
from hf_kcd.training.checkpoint import missing_from_checkpoint

NUM_STAGES = 3
# Scenario: points, batches of 16 an update, points kept in a stage.
SHAPES = {
    "uneven": (301, 1, lambda stage: math.floor(301 * 0.05 ** (stage / NUM_STAGES))),
    "accumulated": (203, 2, lambda stage: math.floor(203 * 0.2 ** (stage / NUM_STAGES))),
    "drop_last": (301, 1, lambda stage: math.floor(301 * 0.3 ** (stage / NUM_STAGES))),
    **dict.fromkeys(("adapter", "two_phases"), (203, 1, lambda stage: math.floor(203 * 0.5 ** (stage / NUM_STAGES)))),
    "even": (384, 2, lambda stage: 384 - 64 * stage),
}
PADDED = ("uneven", "accumulated", "adapter", "two_phases")


@dataclass
class Result:
    """What one process wrote about one scenario."""

    seen: dict[str, Any]
    tensors: dict[str, np.ndarray]

    def part(self, prefix: str) -> dict[str, np.ndarray]:
        """The tensors under a name."""
        return {name: tensor for name, tensor in self.tensors.items() if name.startswith(f"{prefix}.")}


def read(folder: Path, scenario: str, num_processes: int = 2) -> list[Result]:
    """Load what every process wrote about a scenario."""
    stems = [f"{scenario}.rank{rank}" for rank in range(num_processes)]
    return [Result(read_json(folder / f"{stem}.json"), load_file(folder / f"{stem}.safetensors")) for stem in stems]


def stage(epoch: int) -> int:
    return math.ceil(epoch / EPOCHS_PER_STAGE)


@pytest.mark.parametrize("scenario", SHAPES)
def test_both_processes_select_the_planned_number_of_the_same_points_and_keep_one_student(folder, scenario):
    first, second = read(folder, scenario)
    num_kept = SHAPES[scenario][2]
    assert first.seen["world_size"] == second.seen["world_size"] == 2
    assert first.seen["selected"] == second.seen["selected"]
    assert [len(ids) for ids in first.seen["selected"]] == [num_kept(stage(epoch)) for epoch in range(NUM_EPOCHS)]
    for part in ("mask", "student", "momentum"):
        assert_equal(first.part(part), second.part(part))
    output_dir = folder / ("adapter-by-rank0" if scenario == "adapter" else scenario)
    for epoch in range(1, NUM_EPOCHS):
        mask = KnowledgeMask.from_pretrained(output_dir / "stages" / f"stage-{stage(epoch):02d}")
        assert sorted(mask.kept.tolist()) == first.seen["selected"][epoch]


@pytest.mark.parametrize("scenario", SHAPES)
def test_both_processes_take_the_planned_steps_to_the_last_epochs_end(folder, scenario):
    _, accumulation, num_kept = SHAPES[scenario]
    steps = 0
    for epoch in range(NUM_EPOCHS):
        size = num_kept(stage(epoch))
        batches = size // 32 if scenario == "drop_last" else math.ceil(size / 32)
        steps += math.ceil(batches / accumulation)
        assert [len(result.seen["drawn"][epoch]) for result in read(folder, scenario)] == [batches, batches]
    for result in read(folder, scenario):
        assert result.seen["global_step"] == result.seen["max_steps"] == steps
        assert result.seen["epoch"] == NUM_EPOCHS
        # The cosine ends at 0: it falls once an update, whatever the number of processes.
        assert scenario != "uneven" or result.seen["learning_rate"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("scenario", SHAPES)
def test_an_epoch_draws_its_selection_records_every_point_once_and_counts_repeats_as_cost(folder, scenario):
    results = read(folder, scenario)
    # The point ids of every epoch, of both processes together.
    both = zip(*(result.seen["drawn"] for result in results), strict=True)
    all_drawn = [list(chain(*first, *second)) for first, second in both]
    for drawn, selected in zip(all_drawn, results[0].seen["selected"], strict=True):
        if scenario == "drop_last":
            assert len(drawn) == len(set(drawn)) == len(selected) // 32 * 32
            assert set(drawn) <= set(selected)
        else:
            assert set(drawn) == set(selected)
            # Rounds are filled up with repeats where the selection does not divide by them.
            assert len(drawn) - len(selected) == -len(selected) % 32
    assert any(len(drawn) > len(set(drawn)) for drawn in all_drawn) == (scenario in PADDED)
    frequency = np.zeros(SHAPES[scenario][0], dtype=np.int64)
    for drawn in all_drawn:
        frequency[sorted(set(drawn))] += 1
    for result in results:
        assert np.array_equal(result.tensors["record.frequency"], frequency)
        assert result.seen["points"] == [len(drawn) for drawn in all_drawn]


@pytest.mark.parametrize("scenario", ["uneven", "drop_last"])
def test_the_value_of_a_point_is_its_mean_entropy_over_the_epochs(folder, scenario):
    results = read(folder, scenario)
    per_epoch = np.full((NUM_EPOCHS, SHAPES[scenario][0]), np.nan)
    for result in results:
        for epoch in range(NUM_EPOCHS):
            logits = result.tensors[f"logits.{epoch}"].astype(np.float64)
            odds = np.exp(logits - logits.max(1, keepdims=True))
            probability = odds / odds.sum(1, keepdims=True)
            entropy = -(probability * np.log(probability)).sum(1)
            # The largest value of a point's repeats within an epoch counts.
            np.fmax.at(per_epoch[epoch], list(chain.from_iterable(result.seen["drawn"][epoch])), entropy)
    num_drawn = (~np.isnan(per_epoch)).sum(0)
    expected = np.nansum(per_epoch, 0) / np.maximum(1, num_drawn)
    for result in results:
        np.testing.assert_allclose(result.tensors["record.value"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scenario", ["adapter", "two_phases"])
def test_the_layers_of_a_method_are_trained_as_one(folder, scenario):
    first, second = read(folder, scenario)
    assert set(first.part("method")) == {"method.adapter.weight", "method.adapter.bias"}
    assert not np.allclose(first.tensors["method.adapter.weight"], first.tensors["initial.adapter.weight"], atol=0.01)
    assert_equal(first.part("method"), second.part("method"))
    if scenario == "adapter":
        # What has had a gradient has momentum: the adapter's two tensors beside the student's parameters.
        statistics = ("running_mean", "running_var", "num_batches_tracked")
        num_parameters = sum(not name.endswith(statistics) for name in first.part("student"))
        assert len(first.part("momentum")) == num_parameters + 2


@pytest.mark.parametrize("scenario", ["uneven", "drop_last"])
def test_evaluation_counts_every_point_once_with_the_weights_that_are_saved(folder, scenario):
    data = load_image_data("digits")
    images = np.stack([np.asarray(image.convert("RGB")) for image in data.eval[:NUM_EVAL_POINTS]["image"]])
    labels = data.eval[:NUM_EVAL_POINTS]["label"]
    pixels = (images / 255 - np.array(data.preprocessing.mean)) / np.array(data.preprocessing.std)
    student = load_model(folder / scenario / "final").eval()
    with torch.no_grad():
        logits = student(torch.from_numpy(pixels).permute(0, 3, 1, 2).float())
    ranked = logits.topk(5).indices.tolist()
    hits = [best == label for (best, *_), label in zip(ranked, labels, strict=True)]
    # Far enough from chance for a network's ranking to say which weights it has.
    assert np.mean(hits) > 0.2
    for result in read(folder, scenario):
        assert result.seen["labels"] == labels
        assert result.seen["predictions"] == ranked
        assert result.seen["top1"] == pytest.approx(100 * np.mean(hits))


def test_only_the_first_process_writes_except_each_ones_random_state(folder):
    files = [(folder / f"adapter-by-rank{rank}").rglob("*") for rank in range(2)]
    written = [{path.name for path in paths if path.is_file()} for paths in files]
    assert written[1] == {"rng_state_1.pth"}
    assert {"model.safetensors", "method.safetensors", "kcd_state.safetensors", "mask.safetensors"} <= written[0]


@pytest.mark.parametrize("scenario", run_kcd.RESUMED_FROM)
def test_a_run_resumed_within_an_epoch_is_the_uninterrupted_one_to_the_bit(folder, scenario):
    for whole, rest in zip(read(folder, scenario), read(folder, f"{scenario}-resumed"), strict=True):
        first_epoch = NUM_EPOCHS - len(rest.seen["drawn"])
        num_left, (first, *later) = len(rest.seen["drawn"][0]), whole.seen["drawn"][first_epoch:]
        assert 0 < num_left < len(first)
        assert rest.seen["drawn"] == [first[-num_left:], *later]
        for prefix in ("student", "momentum", "mask", "record"):
            assert_equal(whole.part(prefix), rest.part(prefix))
        for name in ("global_step", "epoch", "points", "top1", "predictions"):
            assert whole.seen[name] == rest.seen[name]


def test_a_signal_to_one_process_stops_both_at_one_step_behind_a_checkpoint(folder):
    # The second process gets it after step 13; the two ask each other every ten steps.
    assert [read_json(folder / f"stopped.rank{rank}.json")["global_step"] for rank in range(2)] == [20, 20]
    assert [path.name for path in (folder / "stopped").glob("checkpoint-*")] == ["checkpoint-20"]
    assert not missing_from_checkpoint(folder / "stopped" / "checkpoint-20")


def test_two_processes_train_as_one_does_with_their_batches_together(tmp_path, folder):
    run_kcd.train("even", tmp_path, rank=0, world_size=1)
    (single,) = read(tmp_path, "even", num_processes=1)
    double = read(folder, "even")[0]
    assert single.seen["world_size"] == 1
    # The log holds means over all processes.
    assert len(single.seen["logged"]) > 3
    for result in read(folder, "even"):
        np.testing.assert_allclose(result.seen["logged"], single.seen["logged"], rtol=1e-5)
    assert (single.seen["global_step"], single.seen["points"]) == (double.seen["global_step"], double.seen["points"])
    for number in range(1, NUM_STAGES + 1):
        stages = (where / "even" / "stages" / f"stage-{number:02d}" for where in (tmp_path, folder))
        one, two = map(KnowledgeMask.from_pretrained, stages)
        assert len(one.kept) == len(two.kept)
        # A tie at the limit may be broken by rounding; anything else is another selection.
        score = (one.value * one.frequency.double() ** 0.03).numpy()
        limit = score[one.kept[-1]]
        different = (one.kept_mask ^ two.kept_mask).numpy()
        assert (np.abs(score[different] - limit) < 1e-9 * limit).all() and different.sum() <= 4
    for name, weight in single.part("student").items():
        np.testing.assert_allclose(double.tensors[name], weight, atol=1e-9, err_msg=name)
