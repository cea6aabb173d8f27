"""What a distillation method brings along, and what a step under it costs on this machine."""

import inspect
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from tqdm.auto import tqdm

from ..methods import create_method
from ..methods.registry import get_method
from ..models import image_config, load_model
from ..training.model import DistillationModel

_WARM_UP_STEPS = 2


@dataclass(frozen=True)
class MethodFacts:
    """What is known of a method for a pair of networks.

    Args:
        name: Its name.
        paper: Authors and year.
        student_reads, teacher_reads: What it reads of either network.
        initialisation_epochs: Epochs of its first phase; 0 for none.
        num_parameters: Weights that train beside the student: adapters, peers.
        memory_bytes: Bytes of its buffers, memories of all points above all.
    """

    name: str
    paper: str
    student_reads: tuple[str, ...]
    teacher_reads: tuple[str, ...]
    initialisation_epochs: int
    num_parameters: int
    memory_bytes: int


def describe_method(name: str, student: str, teacher: str, num_points: int) -> MethodFacts:
    """Say what a method brings along for a pair of networks.

    Args:
        name: One of `available_methods()`.
        student: The student's name in timm.
        teacher: The teacher's name in timm.
        num_points: Number of points of the training set, for memories.
    """
    cls = get_method(name)
    # A description needs no weights of networks, but those of adapters are counted where they are.
    method = create_method(name, load_model(student), _teachers(cls.many_teachers, teacher), num_points)
    return MethodFacts(
        name=name,
        paper=paper_of(name),
        student_reads=_in_order(cls.student_reads),
        teacher_reads=_in_order(cls.teacher_reads),
        initialisation_epochs=method.initialisation_epochs,
        num_parameters=sum(parameter.numel() for parameter in method.parameters()),
        memory_bytes=sum(buffer.numel() * buffer.element_size() for buffer in method.buffers()),
    )


def paper_of(name: str) -> str:
    """Return authors and year of a method's paper, which the first line of its file ends with; "" where it has none."""
    first_line = (inspect.getmodule(get_method(name)).__doc__ or "").splitlines()[0]
    found = re.search(r"\(([^()]*\d{4})\)\.?$", first_line)
    return found[1] if found else ""


def measure_methods(
    names: Sequence[str],
    student: str,
    teacher: str,
    num_points: int,
    batch_size: int = 64,
    rounds: int = 3,
    steps: int = 5,
    quiet: bool = False,
) -> dict[str, float]:
    """Measure a training step (both networks, loss, backward, update) under several methods, in turns.

    Args:
        names: The methods.
        student, teacher: The networks' names in timm.
        num_points: Number of points of the training set, for memories.
        batch_size: Images of a step.
        rounds: How often each method has its turn.
        steps: Steps of a turn.
        quiet: Show no progress bar.

    Returns:
        Median milliseconds of a step by method.
    """
    milliseconds: dict[str, list[float]] = {name: [] for name in names}
    # A bar that is written to a file is noise: None leaves it out there.
    with tqdm(total=rounds * len(names), unit="turn", leave=False, disable=True if quiet else None) as bar:
        for _ in range(rounds):
            for name in names:
                milliseconds[name] += _steps(name, student, teacher, num_points, batch_size, steps)
                bar.update()
    return {name: statistics.median(values) for name, values in milliseconds.items()}


def _steps(name: str, student: str, teacher: str, num_points: int, batch_size: int, steps: int) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    network, teachers = load_model(student), _teachers(get_method(name).many_teachers, teacher)
    images, classes = image_config(network), network.num_classes
    method = create_method(name, network, teachers, num_points)
    method.labels = torch.randint(classes, (num_points,), generator=generator)
    model = DistillationModel(network, method, teachers, images.mean, images.std, images.input_size[1:])
    model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    pixels = torch.randn(batch_size, *images.input_size, generator=generator)
    batch = {
        "pixel_values": pixels.contiguous(memory_format=torch.channels_last),
        "point_ids": torch.randperm(num_points, generator=generator)[:batch_size],
        "partner_ids": torch.full((batch_size,), -1),
        "perturbation": torch.zeros(batch_size),
    }
    batch["labels"] = method.labels[batch["point_ids"]]
    # Past every ramp, where all parts are computed.
    method.epoch = 100.0
    times = []
    for _ in range(_WARM_UP_STEPS + steps):
        begun = time.perf_counter()
        model(**batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(1e3 * (time.perf_counter() - begun))
    return times[_WARM_UP_STEPS:]


def _teachers(several: bool, name: str) -> nn.Module | list[nn.Module]:
    return [load_model(name), load_model(name)] if several else load_model(name)


def _in_order(reads: frozenset[str]) -> tuple[str, ...]:
    return tuple(read for read in ("logits", "embedding", "features", "preactivations") if read in reads)
