"""A published mask trains another student from the start, by its points alone or with its mixing (Fig. 4)."""

import numpy as np
import pytest
import torch
from distillation_runs import PAPER, RELEASED, TRAIN, dropout_network, make_trainer, network

from hf_kcd import KnowledgeMask


@pytest.fixture(scope="module", params=["paper", "released_code"])
def published(request, tmp_path_factory):
    kcd, folder = {"paper": PAPER, "released_code": RELEASED}[request.param], tmp_path_factory.mktemp(request.param)
    trainer = make_trainer(folder / "run", kcd)
    trainer.train()
    trainer.knowledge_mask.save_pretrained(folder / "mask")
    return KnowledgeMask.from_pretrained(folder / "mask"), trainer


@pytest.mark.parametrize("pair", ["same", "other"])
@pytest.mark.parametrize("mixing", [False, True])
def test_a_student_is_trained_on_the_mask_from_the_start(tmp_path, published, mixing, pair):
    mask, source = published
    networks = {"model": dropout_network(), "teacher": network(4, "cifar_wrn_16_2")} if pair == "other" else {}
    trainer = make_trainer(tmp_path, mask=mask, mask_mixing=mixing, method="spy", **networks)
    trainer.train()
    num_kept = 44 if not mask.mixing_history else 88 - 3 * 14
    assert len(mask.kept) == num_kept
    assert trainer.cost.points == [num_kept] * 6
    assert trainer.cost.relative_cost == pytest.approx(num_kept / 88)
    assert trainer.state.global_step == trainer.state.max_steps == 6 * 3 and trainer.state.epoch == 6.0
    assert trainer.knowledge_mask is mask

    cumulative = bool(mask.mixing_history)
    order = mask.kept.argsort()
    for epoch in range(6):
        ids, partners, shares = (
            trainer.method.by_epoch(name)[epoch] for name in ("point_ids", "partner_ids", "perturbation")
        )
        drawn = ids.argsort()
        assert torch.equal(ids[drawn], mask.kept[order])
        expected = mask.partner[order] if mixing and not cumulative else torch.full_like(mask.kept, -1)
        assert torch.equal(partners[drawn], expected)
        assert bool(shares.any()) == (mixing and not cumulative)
    # The released code's mixing is in the images: those of the run that made the mask.
    for point in range(88):
        blended = mixing and cumulative
        expected = source.train_dataset.image(point) if blended else np.asarray(TRAIN[point]["image"])
        np.testing.assert_array_equal(trainer.train_dataset.image(point), expected)


def test_two_masks_of_the_same_run_are_the_same(tmp_path, published):
    mask, _ = published
    again = make_trainer(tmp_path, RELEASED if mask.mixing_history else PAPER)
    again.train()
    assert again.knowledge_mask.hamming_distance(mask) == 0
    other = make_trainer(tmp_path / "other", RELEASED if mask.mixing_history else PAPER, seed=11)
    other.train()
    distance = other.knowledge_mask.hamming_distance(mask)
    by_hand = set(other.knowledge_mask.kept.tolist()) ^ set(mask.kept.tolist())
    assert distance == len(by_hand) > 0
    assert mask.provenance["method"] == "kd" and mask.provenance["student"] == "cifar_resnet8"
    assert mask.provenance["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
