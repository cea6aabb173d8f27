"""Online recording (Eq. 12, 13) against NumPy in float64, in any order, on any number of processes, over a restart."""

import numpy as np
import pytest
import torch

from hf_kcd.condensation import KnowledgeRecord


def epochs_of_values(num_points: int, num_epochs: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per epoch the ids that were trained on, shuffled, and their values, negative ones among them."""
    generator = np.random.default_rng(seed)
    ids = [generator.permutation(num_points)[: num_points - 7 * epoch] for epoch in range(num_epochs)]
    return [(each, generator.normal(size=len(each))) for each in ids]


def feed(record: KnowledgeRecord, ids, values, batch_size: int = 16) -> KnowledgeRecord:
    ids, values = torch.as_tensor(ids).clone(), torch.as_tensor(values).clone()
    for batch in zip(ids.split(batch_size), values.split(batch_size), strict=True):
        record.observe(*batch)
    return record


def state_bytes(record: KnowledgeRecord) -> list[bytes]:
    return [tensor.numpy().tobytes() for _, tensor in sorted(record.state_dict().items())]


def test_value_is_the_mean_over_recorded_epochs_and_score_weighs_its_cost():
    record, table, literal = KnowledgeRecord(100), np.full((9, 100), np.nan), np.zeros(100)
    for epoch, (ids, values) in enumerate(epochs_of_values(100, 9)):
        ids, values = ids[ids > 0], values[ids > 0]  # Point 0 is never seen.
        feed(record, ids, values).close_epoch()
        table[epoch, ids] = values
        count = (~np.isnan(table)).sum(0)[ids]
        literal[ids] = (count - 1) / count * literal[ids] + values / count  # Eq. 12, to the bit
    frequency = (~np.isnan(table)).sum(0)
    mean = np.append(0.0, np.nanmean(table[:, 1:], axis=0))
    np.testing.assert_array_equal(record.value.numpy(), literal)
    np.testing.assert_array_equal(record.frequency.numpy(), frequency)
    np.testing.assert_allclose(record.value.numpy(), mean, rtol=1e-11, atol=1e-14)
    for options, exponent in (((), 0.03), ((1.5,), 1.5), ((-1.0,), -1.0), ((0,), 0)):
        expected = mean * np.maximum(frequency, 1.0) ** exponent
        np.testing.assert_allclose(record.scores(*options).numpy(), expected, rtol=1e-11, atol=1e-14)
    assert record.value.dtype == record.scores().dtype == torch.float64


def test_without_online_recording_only_the_latest_value_counts():
    record = KnowledgeRecord(3)
    for ids, values in (([0, 1], [3.0, 5.0]), ([0, 1], [1.0, 2.0]), ([0], [9.0])):
        feed(record, ids, values).close_epoch(online=False)
    assert record.value.tolist() == [9.0, 2.0, 0.0]
    assert record.frequency.tolist() == [3, 2, 0]


def test_within_an_epoch_the_largest_finite_value_of_a_point_counts_once():
    record = KnowledgeRecord(5)
    assert not record.is_open
    feed(record, [0, 0, 1, 2, 3, 4], [1.0, 3.0, -5.0, torch.nan, torch.inf, -torch.inf])
    feed(record, [0, 2], [2.0, 0.0])
    assert record.is_open and record.num_rejected == 3
    record.close_epoch()
    before = state_bytes(record)
    # An epoch that recorded nothing changes nothing.
    record.close_epoch(), record.close_epoch(online=False)
    record.observe(torch.empty(0, dtype=torch.int64), torch.empty(0))
    assert state_bytes(record) == before and not record.is_open
    assert record.value.tolist() == [3.0, -5.0, 0.0, 0.0, 0.0]
    assert record.frequency.tolist() == [1, 1, 1, 0, 0]


def test_values_of_every_dtype_enter_as_they_are_and_without_a_gradient():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        values = torch.tensor([0.1, 1.7], dtype=dtype, requires_grad=True)
        record = feed(KnowledgeRecord(2), [1, 0], values)
        record.close_epoch()
        assert record.value.tolist() == values.double().tolist()[::-1] and not record.value.requires_grad


def test_wrong_arguments_are_refused_before_anything_is_written():
    record = KnowledgeRecord(5)
    for bad in (-1, 5):
        with pytest.raises(IndexError, match=f"Point id {bad} .* 5 points"):
            record.observe(torch.tensor([0, bad]), torch.tensor([1.0, 1.0]))
    for ids, values in (((2,), (3,)), ((2,), (2, 1)), ((2, 1), (2, 1))):
        with pytest.raises(ValueError, match="one value per id"):
            record.observe(torch.zeros(ids, dtype=torch.int64), torch.zeros(values))
    assert not record.is_open
    with pytest.raises(ValueError, match="4 points cannot join one of 5"):
        record.merge(KnowledgeRecord(4))
    with pytest.raises(ValueError, match="num_points is 0"):
        KnowledgeRecord(0)


@pytest.mark.parametrize("num_shards", [2, 8])
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
        for shard in shards:
            shard.merge(*shards)
            shard.merge(shards[0]), shard.merge()  # Once more changes nothing, nor does a single process.
        for record in (single, *shards):
            record.close_epoch()
    assert all(state_bytes(shard) == state_bytes(single) for shard in shards)


def test_a_restart_within_an_epoch_changes_no_bit_and_states_are_snapshots():
    straight, stopped = KnowledgeRecord(100), KnowledgeRecord(100)
    for epoch, (ids, values) in enumerate(epochs_of_values(100, 4)):
        feed(straight, ids, values)
        feed(stopped, ids[:32], values[:32])
        if epoch == 2:
            state, before = stopped.state_dict(), state_bytes(stopped)
            stopped = KnowledgeRecord(100)
            stopped.load_state_dict(state)
        feed(stopped, ids[32:], values[32:])
        straight.close_epoch(), stopped.close_epoch()
    assert state_bytes(stopped) == state_bytes(straight)
    assert [state[name].numpy().tobytes() for name in sorted(state)] == before


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
    record = feed(KnowledgeRecord(3), [1], [1.0])
    before, state = state_bytes(record), record.state_dict()
    change(state)
    with pytest.raises(ValueError, match=message):
        record.load_state_dict(state)
    assert state_bytes(record) == before
