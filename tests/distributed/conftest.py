"""One launch of two processes (gloo, CPU) under torchrun, read by all tests of this folder."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("run_all.py")
TIME_LIMIT = 480


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have written what every training ended with."""
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("torch without gloo")
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={port}"]
    command = [sys.executable, "-m", *launcher, str(SCRIPT), str(folder), str(TIME_LIMIT)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(SCRIPT.parents[2])}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    try:
        # The processes end themselves at the limit, so that torchrun, which would outlive them, ends after it.
        output, _ = process.communicate(timeout=TIME_LIMIT + 30)
    except subprocess.TimeoutExpired:
        process.terminate()
        output, _ = process.communicate()
    # Its files say whether it came to its end, since gloo may abort at the interpreter's exit.
    if len(list(folder.glob("soft_labels.rank*.safetensors"))) < 2:
        pytest.fail(f"The processes did not come to their end. The end of the output:\n{output[-6000:]}")
    return folder
