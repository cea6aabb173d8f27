"""The sizes, costs and steps of a condensed training: the papers' numbers, and a literal simulation."""

import dataclasses
import math
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_kcd.condensation import CondensationSchedule

RELEASED = {"shape": "linear", "first_selection": "after_first_stage"}
# CIFAR-100, 240 epochs, stages of 40, ratio 0.7: the epochs before which it selects, and the sizes of the stages.
CIFAR = {
    "paper": ({}, [1, 41, 81, 121, 161, 201], [50_000, 47_114, 44_395, 41_833, 39_418, 37_143, 35_000]),
    "released": (RELEASED, [40, 80, 120, 160, 200, 240], [50_000, 47_500, 45_000, 42_500, 40_000, 37_500, 35_000]),
}


@pytest.mark.parametrize("preset", CIFAR)
def test_published_sizes_and_selections_of_cifar(preset):
    options, selects, sizes = CIFAR[preset]
    schedule = CondensationSchedule(50_000, 240, 40, 0.7, **options)
    assert [epoch for epoch in range(241) if schedule.selects_before(epoch)] == selects
    assert schedule.num_stages == 6
    for stage, (first, after) in enumerate(zip([0, *selects], [*selects, 241], strict=True)):
        for epoch in {first, after - 1}:
            assert (schedule.stage(epoch), schedule.num_kept(epoch)) == (stage, sizes[stage])


def test_published_costs():
    schedule = CondensationSchedule(50_000, 240, 40, 0.7, batch_size=64)
    assert schedule.absolute_cost == 50_000 + 40 * (47_114 + 44_395 + 41_833 + 39_418 + 37_143) + 39 * 35_000
    assert round(100 * schedule.relative_cost, 2) == 81.76
    assert round(100 * CondensationSchedule(1_281_167, 90, 15, 0.7).relative_cost, 2) == 81.97  # ImageNet
    assert CondensationSchedule(50_000, 240, 40, 0.7, **RELEASED).relative_cost == 0.875
    # The printed 81.6 % needs every stage condensed, the first epoch too.
    stages = [CondensationSchedule(10**9, 240, 40, 0.7).num_kept(epoch) / 10**9 for epoch in CIFAR["paper"][1]]
    assert round(100 * sum(stages) / 6, 3) == 81.635
    # Batches of 64; without condensation the same training takes 240 * 782 updates.
    assert (schedule.batches(0), schedule.batches(1), schedule.batches(239)) == (782, 737, 547)
    assert schedule.total_updates == 782 + 40 * (737 + 694 + 654 + 616 + 581) + 39 * 547
    assert schedule.locate(schedule.total_updates) == (240, 0)
    assert (schedule.epoch_at(782), schedule.epoch_at(391)) == (1.0, 0.5)


def test_sizes_are_rounded_as_the_paper_and_the_released_code_do():
    # The released code rounds each drop, and so misses the ratio.
    for ratio, final in ((0.3, 15_002), (0.6, 30_002)):
        assert CondensationSchedule(50_000, 240, 40, ratio, **RELEASED).num_kept(240) == final
    # Float dust costs no point, and at least one point stays.
    for num_points, ratio, kept in ((60, 0.9, 54), (100, 0.29, 29), (100, 1 - 0.9, 10), (5, 0.01, 1)):
        assert CondensationSchedule(num_points, 240, 40, ratio).num_kept(240) == kept
    assert CondensationSchedule(60, 240, 40, 0.9, **RELEASED).num_kept(40) == 59


@given(st.integers(1, 10**7), st.integers(1, 99), st.integers(1, 40))
def test_sizes_are_those_of_exact_arithmetic(num_points, percent, num_stages):
    linear = CondensationSchedule(num_points, 2 * num_stages, 2, percent / 100, shape="linear")
    dropped = math.floor(num_points * (1 - Fraction(percent, 100)) / num_stages)
    assert linear.num_kept(1) == max(1, num_points - dropped)
    exponential = CondensationSchedule(num_points, 2 * num_stages, 2, percent / 100)
    assert exponential.num_kept(2 * num_stages) == max(1, num_points * percent // 100)


@pytest.mark.parametrize("options", [{}, RELEASED])
def test_ratio_of_one_keeps_every_point_and_still_selects(options):
    schedule = CondensationSchedule(777, 12, 2, 1, **options)
    assert {schedule.num_kept(epoch) for epoch in range(13)} == {777}
    assert sum(schedule.selects_before(epoch) for epoch in range(13)) == 6
    assert schedule.relative_cost == CondensationSchedule(777, 1, 5, 1).relative_cost == 1


@pytest.mark.parametrize(("num_epochs", "epochs_per_stage"), [(6, 1), (7, 2), (7, 3), (9, 4)])
def test_a_selection_after_the_last_epoch_brings_the_mask_to_the_final_ratio(num_epochs, epochs_per_stage):
    # Algorithm 1 returns |K_hat| = rho |K|, also where its last "i % T = 0" is the last epoch itself.
    schedule = CondensationSchedule(1000, num_epochs, epochs_per_stage, 0.7)
    assert schedule.selects_before(num_epochs) == ((num_epochs - 1) % epochs_per_stage == 0)
    assert schedule.num_kept(num_epochs) == 700


def simulate(schedule: CondensationSchedule) -> list[tuple[int, int]]:
    """Walk through all epochs point by point; return (epoch, batches done in it) after every update."""
    kept, selections, positions = list(range(schedule.num_points)), 0, [(0, 0)]
    num_points, num_epochs, length, ratio, *_ = dataclasses.astuple(schedule)
    for epoch in range(num_epochs):
        selects = epoch > 0 and (epoch - (schedule.first_selection == "after_first_epoch")) % length == 0
        if selects:
            selections += 1
            if schedule.shape == "exponential":
                size = int(num_points * ratio ** min(1.0, selections * length / num_epochs) + 1e-7)
            else:
                size = num_points - selections * int(num_points * (1 - ratio) / math.ceil(num_epochs / length) + 1e-7)
            kept = kept[: max(1, size)]
        assert (schedule.selects_before(epoch), schedule.stage(epoch)) == (selects, selections)
        assert schedule.num_kept(epoch) == len(kept)
        batches = [kept[start : start + schedule.batch_size] for start in range(0, len(kept), schedule.batch_size)]
        if schedule.drop_last and len(batches[-1]) < schedule.batch_size:
            batches.pop()
        starts = range(0, len(batches), schedule.world_size)
        rounds = [batches[start : start + schedule.world_size] for start in starts]
        if rounds and schedule.drop_last and len(rounds[-1]) < schedule.world_size:
            rounds.pop()
        assert schedule.batches(epoch) == len(rounds)
        for done in range(1, len(rounds) + 1):
            if done == len(rounds):
                positions.append((epoch + 1, 0))
            elif done % schedule.accumulation == 0:
                positions.append((epoch, done))
    return positions


@settings(max_examples=150, deadline=None)
@given(
    num_points=st.integers(1, 400),
    num_epochs=st.integers(2, 24),
    stage=st.integers(1, 10),
    percent=st.integers(5, 100),
    shape=st.sampled_from(["exponential", "linear"]),
    first_selection=st.sampled_from(["after_first_epoch", "after_first_stage"]),
    batches=st.tuples(st.integers(1, 33), st.integers(1, 8), st.integers(1, 7), st.booleans()),
)
def test_simulation_of_every_batch_agrees(num_points, num_epochs, stage, percent, shape, first_selection, batches):
    stage = min(stage, num_epochs - 1)
    plain = CondensationSchedule(num_points, num_epochs, stage, percent / 100, shape, first_selection)
    batch_size, world_size, accumulation, drop_last = batches
    if drop_last and plain.num_kept(num_epochs - 1) < batch_size * world_size:
        with pytest.raises(ValueError, match="drop_last leaves no batch"):
            plain.with_batches(*batches)
        return
    schedule = plain.with_batches(*batches)
    positions = simulate(schedule)
    assert schedule.total_updates == len(positions) - 1
    assert [schedule.locate(step) for step in range(len(positions))] == positions
    times = [schedule.epoch_at(step) for step in range(len(positions))]
    assert times == sorted(set(times))
    for (epoch, done), now in zip(positions, times, strict=True):
        assert now == pytest.approx(epoch + (done / accumulation / schedule.updates(epoch) if done else 0), abs=1e-12)


def test_what_lies_outside_the_training_is_refused():
    schedule = CondensationSchedule(10, 4, 2, 0.5, batch_size=2)
    for ask in (schedule.num_kept, schedule.stage, schedule.selects_before):
        ask(4)
        for epoch in (-1, 5):
            with pytest.raises(ValueError, match="from 0 to 4"):
                ask(epoch)
    with pytest.raises(ValueError, match="from 0 to 3"):
        schedule.batches(4)
    for step in (-1, 11):
        with pytest.raises(ValueError, match="steps 0 to 10"):
            CondensationSchedule(10, 2, 1, 1, batch_size=2).locate(step)
    plain = CondensationSchedule(10, 4, 2, 0.5)
    for ask in (lambda: plain.batches(0), lambda: plain.total_updates, lambda: plain.locate(0)):
        with pytest.raises(ValueError, match="batch_size"):
            ask()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(((10, 4, 2, ratio), f"final_ratio is {ratio!r}") for ratio in (0.0, 1.1, -0.7, float("nan"), "0.7")),
        ((0, 4, 2, 0.5), "num_points is 0"),
        ((10, 2.5, 2, 0.5), "num_epochs is 2.5.*whole"),
        ((10, 0, 2, 0.5), "num_epochs is 0"),
        ((10, float("inf"), 2, 0.5), "num_epochs is inf"),
        *(((10, 4, length, 0.5), f"epochs_per_stage is {length}") for length in (0, 1.5, None)),
        ((10, 1, 1, 0.5), "never selects"),
        ((10, 4, 4, 0.5, "linear", "after_first_stage"), "never selects"),
        ((10, 4, 2, 0.5, "exponentail"), "Did you mean 'exponential'"),
        ((10, 4, 2, 0.5, "linear", "after_first"), "Unknown first_selection"),
    ],
)
def test_values_that_make_no_schedule_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CondensationSchedule(*arguments)


def test_whole_floats_are_numbers_of_epochs_and_lookups_are_fast():
    # TrainingArguments.num_train_epochs is a float.
    schedule = CondensationSchedule(50_000, 240.0, 40, 0.7, batch_size=64)
    assert schedule == CondensationSchedule(50_000, 240, 40, 0.7, batch_size=64)
    start = time.process_time()
    for step in range(60_000):
        schedule.epoch_at(step)
    assert time.process_time() - start < 3
