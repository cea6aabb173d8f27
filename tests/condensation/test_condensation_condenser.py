"""`KnowledgeCondenser` against Algorithm 1 in NumPy, over restarts, and what it refuses."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from algorithm_by_hand import ByHand
from mask_examples import assert_equal

from hf_kcd.artifacts.files import load_tensors, save_tensors
from hf_kcd.condensation import KCDConfig, KnowledgeCondenser

NUM_POINTS, NUM_EPOCHS, NUM_CLASSES = 30, 6, 5  # The points of the `identity` fixture.
PAPER = KCDConfig(final_ratio=0.5, epochs_per_stage=2)
RELEASED = KCDConfig.released_code(final_ratio=0.5, epochs_per_stage=2)
CONFIGS = {
    "paper": PAPER,
    "released_code": RELEASED,
    "random": replace(PAPER, value="random"),
    "latest_epoch_only": replace(PAPER, online_recording=False),
    "cost_unaware": replace(PAPER, cost_exponent=0.0),
    "strong_cost": replace(PAPER, cost_exponent=0.8),
    "no_mixing": replace(PAPER, augmentation="none"),
    "fixed_mixing": replace(PAPER, augmentation="fixed", max_perturbation=0.2),
    "fewer_kept_than_discarded": replace(PAPER, final_ratio=0.1),
    "cross_entropy": replace(PAPER, value="cross_entropy"),
    "kd_divergence": replace(PAPER, value="kd_divergence"),
    "all_points": replace(PAPER, final_ratio=1.0),
}


def condenser(config: KCDConfig, seed: int = 7, **options) -> KnowledgeCondenser:
    return KnowledgeCondenser(config, NUM_POINTS, NUM_EPOCHS, seed=seed, **options)


def batches(epoch: int, points, size: int = 8):
    """Yield ids, logits of student and teacher, and labels: random, and the same for the same points and epoch."""
    generator = np.random.default_rng(epoch)
    student, teacher = generator.normal(size=(2, NUM_POINTS, NUM_CLASSES)) * 2
    labels = generator.integers(NUM_CLASSES, size=NUM_POINTS)
    ids = generator.permutation(np.sort(points))
    for start in range(0, len(ids), size):
        rows = ids[start : start + size]
        yield tuple(torch.from_numpy(values) for values in (rows, student[rows], teacher[rows], labels[rows]))


def epochs(*condensers, first: int = 0, last: int = NUM_EPOCHS, points=range(NUM_POINTS)) -> Iterator[list]:
    """Show every condenser the points that the first one has selected, and yield their selections after every epoch."""
    for epoch in range(first, last):
        for batch in batches(epoch, points):
            for each in condensers:
                each.observe(*batch)
        selections = [each.end_epoch() for each in condensers]
        yield selections
        if selections[0] is not None:
            points = np.asarray(selections[0][0])


def run(*condensers, **options) -> list[list]:
    return list(epochs(*condensers, **options))


def assert_same(first, second) -> None:
    assert (first is None) == (second is None)
    for own, other in zip(first or (), second or (), strict=True):
        np.testing.assert_allclose(np.asarray(own), np.asarray(other), rtol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_selections_are_those_of_algorithm_1(name, identity):
    config = CONFIGS[name]
    own, by_hand = condenser(config, dataset=identity), ByHand(config, NUM_POINTS, NUM_EPOCHS, seed=7)
    masks = []
    for selected, expected in epochs(own, by_hand):
        assert_same(selected, expected)
        if selected is not None:
            selected.check(NUM_POINTS)
            masks.append(own.mask())
    np.testing.assert_array_equal(own.record.frequency.numpy(), by_hand.frequency)
    np.testing.assert_allclose(own.record.value.numpy(), by_hand.value, rtol=1e-12)
    assert [mask.stage for mask in masks] == [1, 2, 3]
    sizes = [own.schedule.num_kept(epoch) for epoch in range(NUM_EPOCHS)]
    for mask, (kept, partner, perturbation) in zip(masks, by_hand.selections, strict=True):
        assert_same((mask.kept, mask.partner, mask.perturbation), (kept, partner, perturbation))
        assert mask.schedule["sizes"] == sizes and mask.schedule["final_ratio"] == config.final_ratio
    for mask in masks:
        # The released code mixes every stage into the images, so its mask brings all of them.
        assert len(mask.mixing_history) == (mask.stage if config.cumulative_mixing else 0)
        for entry, (kept, partner, perturbation) in zip(mask.mixing_history, by_hand.selections, strict=False):
            rows = partner >= 0
            assert_same(entry, (kept[rows], partner[rows], perturbation[rows]))


def test_random_selections_follow_seed_and_epoch_and_not_the_logits():
    config = CONFIGS["random"]
    first, again, other = (condenser(config, seed) for seed in (7, 7, 8))
    for epoch, (one, _) in enumerate(run(first, other)):
        for batch in batches(epoch + 50, range(NUM_POINTS)):
            again.observe(*batch)
        assert_same(one, again.end_epoch())
    assert set(first.selection.points.tolist()) != set(other.selection.points.tolist())


def test_a_point_that_no_epoch_has_shown_ranks_first():
    # drop_last leaves some points out of the first epoch: without a value they could never come back.
    own, by_hand = condenser(PAPER), ByHand(PAPER, NUM_POINTS, NUM_EPOCHS)
    ((selected, expected),) = run(own, by_hand, last=1, points=range(5, NUM_POINTS))
    assert_same(selected, expected)
    assert selected.points[:5].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("exponent", "value"), [(-0.9, "entropy"), (0.03, "random")])
def test_a_dropped_point_stays_ranked_and_can_return(exponent, value):
    own = condenser(replace(PAPER, value=value, epochs_per_stage=1, cost_exponent=exponent))
    kept = [set(selection.points.tolist()) for (selection,) in run(own) if selection is not None]
    assert any(after - before for before, after in pairwise(kept))


def test_rows_that_are_not_valid_or_not_finite_are_no_values():
    own, logits = condenser(PAPER), torch.randn(4, NUM_CLASSES, requires_grad=True)
    own.observe(torch.tensor([9]), logits[:1])
    logits.data[1, 2] = torch.nan
    own.observe(torch.tensor([3, 4, 5, 6]), logits, valid=torch.tensor([True, True, False, True]))
    own.end_epoch()
    assert own.record.frequency.nonzero()[:, 0].tolist() == [3, 6, 9]
    assert not own.record.value.requires_grad


@pytest.mark.parametrize("name", ["paper", "released_code", "random"])
@pytest.mark.parametrize("stop", [(0, 1), (3, 1), (3, 0), (5, 2)], ids=str)
def test_a_state_goes_on_to_the_same_selections(tmp_path, identity, name, stop):
    epoch, num_batches = stop
    config = CONFIGS[name]
    own = condenser(config, dataset=identity)
    run(own, last=epoch)
    points = range(NUM_POINTS) if own.selection is None else own.selection.points
    shown = list(batches(epoch, points))
    for batch in shown[:num_batches]:
        own.observe(*batch)
    save_tensors(tmp_path / "state.safetensors", own.state_dict())
    resumed = condenser(config, dataset=identity)
    run(resumed, last=2)  # Whatever it did before is forgotten.
    resumed.load_state_dict(load_tensors(tmp_path / "state.safetensors")[0])
    assert resumed.epoch == own.epoch == epoch
    if own.selection is not None:
        assert_equal(own.mask(), resumed.mask())
    for batch in shown[num_batches:]:
        own.observe(*batch), resumed.observe(*batch)
    assert_same(own.end_epoch(), resumed.end_epoch())
    points = points if own.selection is None else own.selection.points
    for one, other in run(own, resumed, first=epoch + 1, points=points):
        assert_same(one, other)
    assert_equal(own.mask(), resumed.mask())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("epoch"), "incomplete .*epoch"),
        (lambda state: state.pop("record.open"), "The state of a record holds"),
        (lambda state: state.pop("selected_by.value"), "The state of a record holds"),
        (lambda state: state.pop("selection.partner"), "incomplete .*partner"),
        (lambda state: state.pop("mixing.1.points"), "incomplete .*points"),
        (lambda state: [state.pop(f"mixing.0.{part}") for part in ("points", "partner", "perturbation")], "another"),
        (lambda state: state["record.value"].fill_(torch.nan), "corrupt"),
        (lambda state: state["selection.points"].fill_(3), "more than once"),
        (lambda state: state["selection.partner"].fill_(NUM_POINTS), f"partner holds {NUM_POINTS}"),
        (lambda state: state["mixing.0.perturbation"].fill_(2), "perturbation holds 2"),
        (lambda state: state.update(condenser(PAPER).state_dict(), epoch=torch.tensor(99)), "epoch is 99"),
        (lambda state: state.update(selected_before=torch.tensor(99)), "epoch is 99"),
        (lambda state: state.update(selected_before=torch.tensor(2)), "another"),
        (lambda state: state.update(KnowledgeCondenser(RELEASED, 31, NUM_EPOCHS).state_dict()), "another data set"),
    ],
)
def test_a_state_that_is_incomplete_corrupt_or_foreign_is_refused(change, message):
    own = condenser(RELEASED)
    run(own, last=5)
    state = own.state_dict()
    change(state)
    with pytest.raises(ValueError, match=message):
        condenser(RELEASED).load_state_dict(state)


def test_a_mask_needs_a_selection_and_the_identity_of_the_data(identity):
    own = condenser(PAPER, dataset=identity)
    with pytest.raises(RuntimeError, match="no selection yet.*train for more epochs"):
        own.mask()
    nameless = condenser(PAPER)
    run(nameless, own, last=1)
    with pytest.raises(ValueError, match="pass dataset=DatasetIdentity.of"):
        nameless.mask()
    own.reset()
    assert own.epoch == 0 and own.selection is None and not own.record.frequency.any()
    with pytest.raises(RuntimeError, match="no selection yet"):
        own.mask()
