"""Processes that load images, however they are started: macOS spawns them, Python 3.14 on Linux forks them from a server."""

import pytest
import torch
from safetensors.torch import load_file
from tiny import CONDENSED, QUIET


@pytest.mark.slow
def test_spawned_workers_give_the_same_bits(tmp_path, hf_kcd, teacher):
    words = ["distill", *QUIET, *CONDENSED, "--teacher", teacher]
    workers = ["--dataloader_num_workers", "1", "--dataloader_persistent_workers", "true"]
    spawned = [*workers, "--dataloader_multiprocessing_context", "spawn"]
    hf_kcd(*words, "--output_dir", tmp_path / "none")
    hf_kcd(*words, *spawned, "--output_dir", tmp_path / "spawned")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("none", "spawned"))
    assert all(torch.equal(one[key], other[key]) for key in one)
