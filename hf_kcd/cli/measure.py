"""Milliseconds of a training step under a method, for `hf-kcd methods --measure`."""

import statistics
import time
from collections.abc import Sequence

import torch
from tqdm.auto import tqdm

from ..methods import create_method
from ..methods.facts import example_teachers
from ..models import image_config, load_model
from ..training.model import DistillationModel

_WARM_UP_STEPS = 2


def measure_methods(
    names: Sequence[str], student: str, teacher: str, num_points: int, batch_size: int, rounds: int, steps: int
) -> dict[str, float]:
    """Measure the median milliseconds of a training step (both networks, loss, backward, update) by method, in turns.

    `num_points` sizes the memories of methods. Each method has `rounds` turns of `steps` steps.
    """
    milliseconds: dict[str, list[float]] = {name: [] for name in names}
    # None shows the bar on a terminal only.
    with tqdm(total=rounds * len(names), unit="turn", leave=False, disable=None) as bar:
        for _ in range(rounds):
            for name in names:
                milliseconds[name] += _steps(name, student, teacher, num_points, batch_size, steps)
                bar.update()
    return {name: statistics.median(values) for name, values in milliseconds.items()}


def _steps(name: str, student: str, teacher: str, num_points: int, batch_size: int, steps: int) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    network = load_model(student)
    teachers = example_teachers(name, teacher)
    images = image_config(network)
    method = create_method(name, network, teachers, num_points)
    method.labels = torch.randint(network.num_classes, (num_points,), generator=generator)
    size = images.input_size[1:]
    model = DistillationModel(network, method, teachers, images.mean, images.std, size, channels_last=True).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    pixels = torch.randn(batch_size, *images.input_size, generator=generator)
    points = torch.randperm(num_points, generator=generator)[:batch_size]
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    batch = {"pixel_values": pixels, "labels": method.labels[points], "point_ids": points}
    batch |= {"partner_ids": torch.full((batch_size,), -1), "perturbation": torch.zeros(batch_size)}
    # Past every ramp, where all parts are computed.
    method.epoch = 100.0
    times = []
    with model.in_use():
        for _ in range(_WARM_UP_STEPS + steps):
            begun = time.perf_counter()
            model(**batch)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
            times.append(1e3 * (time.perf_counter() - begun))
    return times[_WARM_UP_STEPS:]
