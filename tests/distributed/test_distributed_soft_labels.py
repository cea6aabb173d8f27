"""Soft labels by two processes: each row has its view's pixels and logits, and both train one student."""

import numpy as np
import torch
from run_soft_labels import KEPT, NUM_EPOCHS, NUM_VIEWS, network, train_set
from safetensors.numpy import load_file

from hf_kcd.training.soft_labels import make_soft_labels


def test_two_processes_show_the_views_and_their_logits(folder):
    ranks = [load_file(folder / f"soft_labels.rank{rank}.safetensors") for rank in range(2)]
    weights = [name for name in ranks[0] if name.startswith("student.")]
    assert all(np.array_equal(ranks[0][name], ranks[1][name]) for name in weights)

    dataset = train_set()
    soft_labels = make_soft_labels(network("cifar_resnet20", 5), dataset, NUM_VIEWS, bits=16)
    for epoch in range(NUM_EPOCHS):
        dataset.set_epoch(epoch % NUM_VIEWS)
        pixels = dataset.__getitems__(range(len(KEPT)))["pixel_values"].numpy()
        logits = soft_labels.logits(torch.tensor(KEPT), epoch % NUM_VIEWS).numpy()
        drawn = []
        for rank in ranks:
            rows = rank["epoch"] == epoch
            place = np.searchsorted(KEPT, rank["point_ids"][rows])
            assert np.array_equal(rank["pixel_values"][rows], pixels[place])
            # The processes' teachers may sum in another order than this one, and round to the next code.
            np.testing.assert_allclose(rank["teacher_logits"][rows], logits[place], atol=1e-3)
            drawn += rank["point_ids"][rows].tolist()
        # 40 points are 3 rounds of 2 x 8; the last round begins anew.
        assert set(drawn) == set(KEPT) and len(drawn) == 48
