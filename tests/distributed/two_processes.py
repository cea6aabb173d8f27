"""Starting a script as two processes of one training (gloo, CPU), as `torchrun` would."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest


def run_two_processes(script: str, folder: Path, time_limit: int) -> None:
    """Run a script of this folder once per rank, with `folder` and the limit in seconds as its arguments.

    The test fails with the ends of both outputs when one of them does not come to its own end.
    """
    path = Path(__file__).with_name(script)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **shared, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(path.parents[2])}
    logs = [folder / f"rank{rank}.log" for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, str(path), str(folder), str(time_limit)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
        )
        for rank, log in enumerate(logs)
    ]
    codes = []
    for process in processes:
        try:
            codes.append(process.wait(timeout=time_limit + 30))
        except subprocess.TimeoutExpired:
            process.kill()
            codes.append(None)
    if any(codes):
        ends = [log.read_text(errors="replace")[-3000:] for log in logs]
        pytest.fail("\n".join([f"The processes ended with {codes}. The ends of their outputs:", *ends]))
