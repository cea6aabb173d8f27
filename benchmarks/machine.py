"""What the benchmarks say of the machine they ran on."""

import os

import torch

from hf_kcd.artifacts.environment import cpu_name


def describe_machine(device: torch.device | str = "cpu") -> str:
    """Name the processor and the threads, and the accelerator where one is used.

    Args:
        device: Where the networks ran.
    """
    threads = torch.get_num_threads()
    text = f"{threads} thread{'s' if threads > 1 else ''} on {os.cpu_count()} cores, {cpu_name()}"
    device = torch.device(device)
    return f"{torch.cuda.get_device_name(device)}, {text}" if device.type == "cuda" else text
