"""The sizes, costs and steps of a condensed training: the papers' numbers, and a literal simulation."""

import math
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_kcd.condensation import CondensationSchedule

RELEASED = {"shape": "linear", "first_selection": "after_first_stage"}


def test_paper_keeps_the_published_numbers_of_cifar_points():
    schedule = CondensationSchedule(50_000, 240, 40, 0.7)
    assert [schedule.num_kept(epoch) for epoch in (0, 1, 40, 41, 81, 121, 161, 201, 239, 240)] == [
        50_000, 47_114, 47_114, 44_395, 41_833, 39_418, 37_143, 35_000, 35_000, 35_000,
    ]  # fmt: skip
    assert schedule.absolute_cost == 50_000 + 40 * (47_114 + 44_395 + 41_833 + 39_418 + 37_143) + 39 * 35_000
    assert round(100 * schedule.relative_cost, 2) == 81.76
    assert schedule.num_stages == 6


def test_paper_selects_after_the_first_epoch_and_then_every_stage():
    schedule = CondensationSchedule(50_000, 240, 40, 0.7)
    assert [epoch for epoch in range(241) if schedule.selects_before(epoch)] == [1, 41, 81, 121, 161, 201]
    assert [schedule.stage(epoch) for epoch in (0, 1, 40, 41, 201, 239, 240)] == [0, 1, 1, 2, 6, 6, 6]


def test_paper_costs_81_97_percent_on_imagenet():
    assert round(100 * CondensationSchedule(1_281_167, 90, 15, 0.7).relative_cost, 2) == 81.97


def test_printed_cost_of_81_6_percent_needs_every_stage_condensed():
    stages = [
        CondensationSchedule(10**9, 240, 40, 0.7).num_kept(epoch) / 10**9 for epoch in (1, 41, 81, 121, 161, 201)
    ]
    assert round(100 * sum(stages) / 6, 3) == 81.635


def test_released_code_keeps_its_numbers_of_points():
    schedule = CondensationSchedule(50_000, 240, 40, 0.7, **RELEASED)
    assert [schedule.num_kept(epoch) for epoch in (0, 39, 40, 80, 120, 160, 200, 239, 240)] == [
        50_000, 50_000, 47_500, 45_000, 42_500, 40_000, 37_500, 37_500, 35_000,
    ]  # fmt: skip
    assert schedule.relative_cost == 0.875
    assert [epoch for epoch in range(241) if schedule.selects_before(epoch)] == [40, 80, 120, 160, 200, 240]
    assert [schedule.stage(epoch) for epoch in (0, 39, 40, 239, 240)] == [0, 0, 1, 5, 6]


@pytest.mark.parametrize(("ratio", "final"), [(0.3, 15_002), (0.6, 30_002)])
def test_released_code_rounds_each_drop_and_so_misses_the_ratio(ratio, final):
    assert CondensationSchedule(50_000, 240, 40, ratio, **RELEASED).num_kept(240) == final


def test_released_code_selects_at_the_end_only_when_stages_fill_the_training():
    schedule = CondensationSchedule(1000, 100, 40, 0.7, **RELEASED)
    assert [epoch for epoch in range(101) if schedule.selects_before(epoch)] == [40, 80]
    assert schedule.num_stages == 3


@pytest.mark.parametrize(("num_points", "ratio", "kept"), [(60, 0.9, 54), (100, 0.29, 29), (100, 1 - 0.9, 10)])
def test_float_dust_costs_no_point(num_points, ratio, kept):
    assert CondensationSchedule(num_points, 240, 40, ratio).num_kept(240) == kept
    assert CondensationSchedule(num_points, 240, 40, 0.9, **RELEASED).num_kept(40) == num_points - num_points // 60


@given(st.integers(1, 10**7), st.integers(1, 99), st.integers(1, 40))
def test_sizes_are_those_of_exact_arithmetic(num_points, percent, num_stages):
    linear = CondensationSchedule(num_points, 2 * num_stages, 2, percent / 100, shape="linear")
    dropped = math.floor(num_points * (1 - Fraction(percent, 100)) / num_stages)
    assert linear.num_kept(1) == max(1, num_points - dropped)
    exponential = CondensationSchedule(num_points, 2 * num_stages, 2, percent / 100)
    assert exponential.num_kept(2 * num_stages) == max(1, num_points * percent // 100)


def test_at_least_one_point_stays():
    assert CondensationSchedule(5, 10, 2, 0.01).num_kept(10) == 1


@pytest.mark.parametrize("options", [{}, RELEASED])
def test_ratio_of_one_keeps_every_point_and_still_selects(options):
    schedule = CondensationSchedule(777, 12, 2, 1, **options)
    assert {schedule.num_kept(epoch) for epoch in range(13)} == {777}
    assert sum(schedule.selects_before(epoch) for epoch in range(13)) == 6
    assert schedule.relative_cost == 1
    assert CondensationSchedule(777, 1, 5, 1).relative_cost == 1


def simulate(schedule: CondensationSchedule, exponential: bool, after_first_epoch: bool) -> list[tuple[int, int]]:
    """Walk through all epochs point by point; give (epoch, batches done in it) after every update."""
    kept, selections, positions = list(range(schedule.num_points)), 0, [(0, 0)]
    for epoch in range(schedule.num_epochs):
        previous = epoch - 1
        selects = previous >= 0 and (previous if after_first_epoch else epoch) % schedule.epochs_per_stage == 0
        if selects:
            selections += 1
            stages = math.ceil(schedule.num_epochs / schedule.epochs_per_stage)
            if exponential:
                power = selections * schedule.epochs_per_stage / schedule.num_epochs
                size = int(schedule.num_points * schedule.final_ratio ** min(1.0, power) + 1e-7)
            else:
                size = schedule.num_points - selections * int(
                    schedule.num_points * (1 - schedule.final_ratio) / stages + 1e-7
                )
            kept = kept[: max(1, size)]
        assert schedule.selects_before(epoch) == selects
        assert schedule.stage(epoch) == selections
        assert schedule.num_kept(epoch) == len(kept)

        batches, batch = [], []
        for point in kept:
            batch.append(point)
            if len(batch) == schedule.batch_size:
                batches.append(batch)
                batch = []
        if batch and not schedule.drop_last:
            batches.append(batch)
        rounds = []
        while batches:
            rounds.append(batches[: schedule.world_size])
            batches = batches[schedule.world_size :]
        if rounds and schedule.drop_last and len(rounds[-1]) < schedule.world_size:
            rounds.pop()
        assert schedule.batches(epoch) == len(rounds)
        waiting = 0
        for done in range(1, len(rounds) + 1):
            waiting += 1
            if waiting == schedule.accumulation or done == len(rounds):
                waiting = 0
                positions.append((epoch, done) if done < len(rounds) else (epoch + 1, 0))
    return positions


@settings(max_examples=300, deadline=None)
@given(
    num_points=st.integers(1, 400),
    num_epochs=st.integers(2, 24),
    epochs_per_stage=st.integers(1, 10),
    percent=st.integers(5, 100),
    exponential=st.booleans(),
    after_first_epoch=st.booleans(),
    batch_size=st.integers(1, 33),
    world_size=st.integers(1, 8),
    accumulation=st.integers(1, 7),
    drop_last=st.booleans(),
)
def test_simulation_of_every_batch_agrees(
    num_points,
    num_epochs,
    epochs_per_stage,
    percent,
    exponential,
    after_first_epoch,
    batch_size,
    world_size,
    accumulation,
    drop_last,
):
    arguments = (
        num_points,
        num_epochs,
        min(epochs_per_stage, num_epochs - 1),
        percent / 100,
        "exponential" if exponential else "linear",
        "after_first_epoch" if after_first_epoch else "after_first_stage",
    )
    plain = CondensationSchedule(*arguments)
    if drop_last and plain.num_kept(num_epochs - 1) < batch_size * world_size:
        with pytest.raises(ValueError, match="drop_last leaves no batch"):
            plain.with_batches(batch_size, world_size, accumulation, drop_last)
        return
    schedule = plain.with_batches(batch_size, world_size, accumulation, drop_last)
    positions = simulate(schedule, exponential, after_first_epoch)
    assert schedule.total_updates == len(positions) - 1
    assert [schedule.locate(step) for step in range(len(positions))] == positions
    times = [schedule.epoch_at(step) for step in range(len(positions))]
    assert times == sorted(set(times))
    for (epoch, batches), now in zip(positions, times, strict=True):
        expected = epoch + (batches / accumulation / schedule.updates(epoch) if batches else 0)
        assert now == pytest.approx(expected, abs=1e-12)


def test_published_number_of_batches_for_cifar():
    schedule = CondensationSchedule(50_000, 240, 40, 0.7, batch_size=64)
    assert (schedule.batches(0), schedule.batches(1), schedule.batches(239)) == (782, 737, 547)
    # Without condensation the same training takes 240 * 782 updates.
    assert schedule.total_updates == 782 + 40 * (737 + 694 + 654 + 616 + 581) + 39 * 547
    assert schedule.locate(schedule.total_updates) == (240, 0)
    assert schedule.epoch_at(782) == 1.0
    assert schedule.epoch_at(391) == 0.5


@pytest.mark.parametrize("step", [-1, 11])
def test_steps_outside_the_training_are_refused(step):
    with pytest.raises(ValueError, match="steps 0 to 10"):
        CondensationSchedule(10, 2, 1, 1, batch_size=2).locate(step)


def test_epochs_outside_the_training_are_refused():
    schedule = CondensationSchedule(10, 4, 2, 0.5, batch_size=2)
    for ask in (schedule.num_kept, schedule.stage, schedule.selects_before):
        ask(4)
        for epoch in (-1, 5):
            with pytest.raises(ValueError, match="from 0 to 4"):
                ask(epoch)
    with pytest.raises(ValueError, match="from 0 to 3"):
        schedule.batches(4)


def test_batches_are_not_guessed():
    schedule = CondensationSchedule(10, 4, 2, 0.5)
    for ask in (lambda: schedule.batches(0), lambda: schedule.total_updates, lambda: schedule.locate(0)):
        with pytest.raises(ValueError, match="batch_size"):
            ask()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 4, 2, 0.0), "final_ratio is 0.0"),
        ((10, 4, 2, 1.1), "final_ratio is 1.1"),
        ((10, 4, 2, -0.7), "final_ratio is -0.7"),
        ((10, 4, 2, float("nan")), "final_ratio is nan"),
        ((10, 4, 2, "0.7"), "final_ratio is '0.7'"),
        ((0, 4, 2, 0.5), "num_points is 0"),
        ((10, 2.5, 2, 0.5), "num_epochs is 2.5.*whole"),
        ((10, 0, 2, 0.5), "num_epochs is 0"),
        ((10, float("inf"), 2, 0.5), "num_epochs is inf"),
        ((10, 4, 0, 0.5), "epochs_per_stage is 0"),
        ((10, 4, 1.5, 0.5), "epochs_per_stage is 1.5"),
        ((10, 4, None, 0.5), "epochs_per_stage is None"),
        ((10, 1, 1, 0.5), "never selects"),
        ((10, 4, 4, 0.5, "linear", "after_first_stage"), "never selects"),
        ((10, 4, 2, 0.5, "exponentail"), "Did you mean 'exponential'"),
        ((10, 4, 2, 0.5, "linear", "after_first"), "Unknown first_selection"),
    ],
)
def test_values_that_make_no_schedule_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CondensationSchedule(*arguments)


def test_whole_floats_are_numbers_of_epochs():
    # TrainingArguments.num_train_epochs is a float.
    assert CondensationSchedule(10, 4.0, 2, 0.5) == CondensationSchedule(10, 4, 2, 0.5)


def test_sixty_thousand_lookups_take_no_noticeable_time():
    schedule = CondensationSchedule(50_000, 240, 40, 0.7, batch_size=64)
    start = time.perf_counter()
    for step in range(60_000):
        schedule.epoch_at(step)
    assert time.perf_counter() - start < 3


@pytest.mark.parametrize(("num_epochs", "epochs_per_stage"), [(6, 1), (7, 2), (7, 3), (9, 4)])
def test_a_selection_after_the_last_epoch_brings_the_mask_to_the_final_ratio(num_epochs, epochs_per_stage):
    # Algorithm 1 returns |K_hat| = rho |K|, also where its last "i % T = 0" is the last epoch itself.
    schedule = CondensationSchedule(1000, num_epochs, epochs_per_stage, 0.7)
    assert schedule.selects_before(num_epochs) == ((num_epochs - 1) % epochs_per_stage == 0)
    assert schedule.num_kept(num_epochs) == 700
