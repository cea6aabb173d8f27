"""Online recording (Eq. 12, 13) against NumPy in float64, in any order, on any number of processes, over a restart."""

import numpy as np
import pytest
import torch

from hf_kcd.condensation import KnowledgeRecord


def epochs_of_values(num_points: int, num_epochs: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Give per epoch the ids that were trained on, shuffled, and their values."""
    generator = np.random.default_rng(seed)
    epochs = []
    for epoch in range(num_epochs):
        ids = generator.permutation(num_points)[: num_points - 7 * epoch]
        epochs.append((ids, generator.exponential(size=len(ids))))
    return epochs


def feed(record: KnowledgeRecord, ids: np.ndarray, values: np.ndarray, batch_size: int = 16) -> None:
    for start in range(0, len(ids), batch_size):
        batch = slice(start, start + batch_size)
        record.observe(torch.from_numpy(ids[batch].copy()), torch.from_numpy(values[batch].copy()))


def state_bytes(record: KnowledgeRecord) -> list[bytes]:
    return [tensor.numpy().tobytes() for _, tensor in sorted(record.state_dict().items())]


def test_value_is_the_mean_over_recorded_epochs_and_score_weighs_its_cost():
    epochs = epochs_of_values(100, 9)
    record = KnowledgeRecord(100)
    table = np.full((9, 100), np.nan)
    for epoch, (ids, values) in enumerate(epochs):
        feed(record, ids, values)
        record.close_epoch()
        table[epoch, ids] = values
    frequency = (~np.isnan(table)).sum(0)
    np.testing.assert_array_equal(record.frequency.numpy(), frequency)
    np.testing.assert_allclose(record.value.numpy(), np.nanmean(table, axis=0), rtol=1e-13)
    np.testing.assert_allclose(record.scores().numpy(), np.nanmean(table, 0) * frequency**0.03, rtol=1e-13)
    np.testing.assert_allclose(record.scores(1.5).numpy(), np.nanmean(table, 0) * frequency**1.5, rtol=1e-13)
    assert torch.equal(record.scores(0), record.value)
    assert record.value.dtype == record.scores().dtype == torch.float64


def test_running_mean_is_eq_12_literally():
    record = KnowledgeRecord(1)
    expected = 0.0
    for count, value in enumerate([2.0, 1.0, 0.25, 0.125], start=1):
        record.observe(torch.tensor([0]), torch.tensor([value]))
        record.close_epoch()
        expected = (count - 1) / count * expected + value / count
        assert record.value.item() == expected


def test_without_online_recording_only_the_latest_value_counts():
    record = KnowledgeRecord(3)
    for values in ([3.0, 5.0], [1.0, 2.0]):
        record.observe(torch.tensor([0, 1]), torch.tensor(values))
        record.close_epoch(online=False)
    record.observe(torch.tensor([0]), torch.tensor([9.0]))
    record.close_epoch(online=False)
    assert record.value.tolist() == [9.0, 2.0, 0.0]
    assert record.frequency.tolist() == [3, 2, 0]


def test_a_repeat_within_an_epoch_counts_once():
    record = KnowledgeRecord(2)
    record.observe(torch.tensor([0, 0, 1]), torch.tensor([1.0, 3.0, 5.0]))
    record.observe(torch.tensor([0]), torch.tensor([2.0]))
    record.close_epoch()
    assert record.value.tolist() == [3.0, 5.0]
    assert record.frequency.tolist() == [1, 1]


def test_dropped_points_keep_their_value_and_never_seen_ones_score_zero():
    record = KnowledgeRecord(3)
    record.observe(torch.tensor([0, 1]), torch.tensor([4.0, -2.0]))
    record.close_epoch()
    record.observe(torch.tensor([0]), torch.tensor([2.0]))
    record.close_epoch()
    assert record.value.tolist() == [3.0, -2.0, 0.0]
    for exponent in (-1.0, 0.0, 0.03, 1.0):
        assert record.scores(exponent)[2] == 0.0
        assert record.scores(exponent)[1] == -2.0


def test_values_may_be_negative_and_zero():
    record = KnowledgeRecord(2)
    record.observe(torch.tensor([0, 1]), torch.tensor([-3.0, 0.0]))
    record.close_epoch()
    assert record.value.tolist() == [-3.0, 0.0]
    assert record.frequency.tolist() == [1, 1]


def test_closing_an_empty_epoch_changes_nothing():
    record = KnowledgeRecord(5)
    assert not record.is_open
    record.observe(torch.tensor([2]), torch.tensor([1.5]))
    assert record.is_open
    record.close_epoch()
    before = state_bytes(record)
    record.close_epoch()
    record.close_epoch(online=False)
    record.observe(torch.empty(0, dtype=torch.int64), torch.empty(0))
    assert state_bytes(record) == before
    assert not record.is_open


def test_values_that_are_not_finite_never_enter():
    record = KnowledgeRecord(4)
    values = torch.tensor([torch.nan, torch.inf, -torch.inf, 1.0])
    record.observe(torch.arange(4), values)
    record.observe(torch.tensor([0]), torch.tensor([2.0]))
    record.close_epoch()
    assert record.value.tolist() == [2.0, 0.0, 0.0, 1.0]
    assert record.frequency.tolist() == [1, 0, 0, 1]
    assert record.num_rejected == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_values_of_every_dtype_enter_as_they_are_and_without_a_gradient(dtype):
    values = torch.tensor([0.1, 1.7], dtype=dtype, requires_grad=True)
    record = KnowledgeRecord(2)
    record.observe(torch.tensor([1, 0]), values)
    record.close_epoch()
    assert record.value.tolist() == values.double().tolist()[::-1]
    assert not record.value.requires_grad


@pytest.mark.parametrize("bad", [-1, 5])
def test_ids_outside_the_data_set_are_refused_before_anything_is_written(bad):
    record = KnowledgeRecord(5)
    with pytest.raises(IndexError, match=f"Point id {bad} .* 5 points"):
        record.observe(torch.tensor([0, bad]), torch.tensor([1.0, 1.0]))
    assert not record.is_open


@pytest.mark.parametrize("shapes", [((2,), (3,)), ((2,), (2, 1)), ((2, 1), (2, 1))])
def test_shapes_that_do_not_match_are_refused(shapes):
    with pytest.raises(ValueError, match="one value per id"):
        KnowledgeRecord(5).observe(torch.zeros(shapes[0], dtype=torch.int64), torch.zeros(shapes[1]))


def test_a_record_needs_points():
    with pytest.raises(ValueError, match="num_points is 0"):
        KnowledgeRecord(0)


@pytest.mark.parametrize("num_shards", [2, 3, 8])
def test_merged_shards_equal_one_process_bit_for_bit(num_shards):
    single, shards = KnowledgeRecord(200), [KnowledgeRecord(200) for _ in range(num_shards)]
    generator = np.random.default_rng(1)
    for ids, values in epochs_of_values(200, 5):
        feed(single, ids, values)
        order = generator.permutation(len(ids))
        for rank, shard in enumerate(shards):
            # Every shard repeats the first points, as samplers do to fill the last round.
            mine = np.concatenate([order[rank::num_shards], order[:3]])
            feed(shard, ids[mine], values[mine], batch_size=5 + rank)
        shards[0].merge(*shards[1:])
        for shard in shards[1:]:
            shard.merge(shards[0])
        for record in (single, *shards):
            record.close_epoch()
    assert all(state_bytes(shard) == state_bytes(single) for shard in shards)


def test_merging_twice_changes_nothing_and_merging_alone_does_nothing():
    first, second = KnowledgeRecord(3), KnowledgeRecord(3)
    first.observe(torch.tensor([0]), torch.tensor([1.0]))
    second.observe(torch.tensor([0, 2]), torch.tensor([2.0, 3.0]))
    first.merge(second)
    before = state_bytes(first)
    first.merge(second)
    first.merge()
    assert state_bytes(first) == before
    first.close_epoch()
    assert first.value.tolist() == [2.0, 0.0, 3.0]
    with pytest.raises(ValueError, match="4 points cannot join one of 3"):
        first.merge(KnowledgeRecord(4))


def record_on_one_rank(rank: int, world_size: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    record = KnowledgeRecord(60)
    for ids, values in epochs_of_values(60, 3):
        feed(record, ids[rank::world_size], values[rank::world_size])
        record.merge()
        record.merge()
        record.close_epoch()
    torch.save(record.state_dict(), f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_agree_with_one_bit_for_bit(tmp_path):
    torch.multiprocessing.spawn(record_on_one_rank, (2, str(tmp_path)), nprocs=2)
    single = KnowledgeRecord(60)
    for ids, values in epochs_of_values(60, 3):
        feed(single, ids, values)
        single.close_epoch()
    for rank in range(2):
        state = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        for name, tensor in single.state_dict().items():
            assert torch.equal(state[name], tensor), (rank, name)


def test_a_restart_within_an_epoch_changes_no_bit():
    straight, stopped = KnowledgeRecord(100), KnowledgeRecord(100)
    for epoch, (ids, values) in enumerate(epochs_of_values(100, 4)):
        feed(straight, ids, values)
        feed(stopped, ids[:32], values[:32])
        if epoch == 2:
            state = {name: tensor.clone() for name, tensor in stopped.state_dict().items()}
            stopped = KnowledgeRecord(100)
            stopped.load_state_dict(state)
        feed(stopped, ids[32:], values[32:])
        straight.close_epoch()
        stopped.close_epoch()
    assert state_bytes(stopped) == state_bytes(straight)


def test_a_state_is_a_snapshot_on_both_ways():
    record = KnowledgeRecord(2)
    record.observe(torch.tensor([0]), torch.tensor([1.0]))
    record.close_epoch()
    state = record.state_dict()
    record.observe(torch.tensor([0, 1]), torch.tensor([5.0, 5.0]))
    record.close_epoch()
    assert state["frequency"].tolist() == [1, 0]
    record.load_state_dict(state)
    record.observe(torch.tensor([1]), torch.tensor([7.0]))
    record.close_epoch()
    assert state["frequency"].tolist() == [1, 0]
    assert state["open"].tolist() == [-torch.inf] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("open"), "this one"),
        (lambda state: state.update(more=torch.zeros(3)), "this one"),
        (lambda state: state.update(KnowledgeRecord(4).state_dict()), "another data set"),
        (lambda state: state.update(value=state["value"].float()), "float32"),
        (lambda state: state["value"].fill_(torch.nan), "corrupt"),
        (lambda state: state["open"].fill_(torch.nan), "corrupt"),
        (lambda state: state["open"].fill_(torch.inf), "corrupt"),
        (lambda state: state["frequency"].fill_(-1), "corrupt"),
    ],
)
def test_foreign_states_are_refused_whole(change, message):
    record = KnowledgeRecord(3)
    record.observe(torch.tensor([1]), torch.tensor([1.0]))
    before, state = state_bytes(record), record.state_dict()
    change(state)
    with pytest.raises(ValueError, match=message):
        record.load_state_dict(state)
    assert state_bytes(record) == before
