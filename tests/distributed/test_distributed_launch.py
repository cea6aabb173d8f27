"""Several processes, launched as the pages print it, are one training, also on a machine without an accelerator."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import network

ROOT = Path(__file__).parents[2]
PRINTED = [
    line
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("torchrun ")
]


def test_the_pages_print_a_launch():
    assert PRINTED


@pytest.mark.parametrize("command", PRINTED)
def test_a_launch_as_printed_is_one_training(tmp_path, command):
    weights = tmp_path / "teacher.pth"
    torch.save(network("cifar_resnet8", 3).state_dict(), weights)
    # Only sizes and places are not as printed; nothing says that CPUs are meant.
    smaller = {"data": "digits", "train_points": 60, "teacher": "cifar_resnet8", "student": "cifar_resnet8"}
    smaller |= {"teacher_checkpoint": weights, "output_dir": tmp_path / "run", "num_train_epochs": 2}
    smaller |= {"epochs_per_stage": 1, "lr_decay_epochs": 1, "plots": "false", "save_strategy": "no"}
    launcher, *words = shlex.split(command)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = ["--master-addr=127.0.0.1", f"--master-port={free.getsockname()[1]}"]
    assert launcher == "torchrun"
    overrides = [word for name, value in smaller.items() for word in (f"--{name}", str(value))]
    line = [sys.executable, "-m", "torch.distributed.run", *place, *words, *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Training cifar_resnet8") == 1
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert results["world_size"] == 2 == int(re.search(r"--nproc_per_node (\d+)", command)[1])
    assert results["optimisation"]["batch_size"] == 2 * 64
