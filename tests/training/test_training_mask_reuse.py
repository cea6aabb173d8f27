"""A published mask trains another student from the start, by its points alone or with its mixing (Fig. 4)."""

import numpy as np
import pytest
import torch
from distillation_runs import TRAIN, dropout_network, make_trainer, network

from hf_kcd import KnowledgeMask


@pytest.mark.parametrize(
    ("run", "mixing", "pair"),
    [("paper", True, "other"), ("paper", False, "same"), ("released", True, "same"), ("released", False, "other")],
)
def test_a_student_is_trained_on_the_mask_from_the_start(tmp_path, finished, run, mixing, pair):
    source = finished(run).trainer
    source.knowledge_mask.save_pretrained(tmp_path / "mask")
    mask = KnowledgeMask.from_pretrained(tmp_path / "mask")
    networks = {"model": dropout_network(), "teacher": network(4, "cifar_wrn_16_2")} if pair == "other" else {}
    options = {"method": "spy", "num_train_epochs": 2, "lr_decay_epochs": [1], **networks}
    trainer = make_trainer(tmp_path, mask=mask, mask_mixing=mixing, **options)
    trainer.train()
    cumulative = run == "released"
    num_kept = 88 - 3 * 14 if cumulative else 44
    assert len(mask.kept) == num_kept and bool(mask.mixing_history) == cumulative
    assert trainer.cost.points == [num_kept] * 2
    assert trainer.cost.relative_cost == pytest.approx(num_kept / 88)
    assert trainer.state.global_step == trainer.state.max_steps == 2 * 3 and trainer.state.epoch == 2.0
    assert trainer.knowledge_mask is mask

    order = mask.kept.argsort()
    for epoch in range(2):
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
