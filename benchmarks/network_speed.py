"""Time forward and backward of networks, contiguous against channels-last, in turns in one run.

A step is forward in training mode, cross-entropy and backward; no data, no optimizer. In each round every network takes
its turn in every variant, so that whatever else the machine does falls on all of them.

    python benchmarks/network_speed.py --json network_speed.json
    python benchmarks/network_speed.py 'cifar_resnet*' cifar_vgg8 --rounds 3
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from machine import describe_machine
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from hf_kcd import load_model
from hf_kcd.artifacts.files import write_json
from hf_kcd.models import image_config
from hf_kcd.models.catalog import find_networks
from hf_kcd.reporting import format_table

CONTIGUOUS, CHANNELS_LAST, COMPILED = "contiguous", "channels last", "channels last, compiled"


def make_step(name: str, variant: str, batch_size: int, device: torch.device) -> Callable[[], None]:
    """Make what is timed: one forward and backward pass of a network over one fixed batch.

    Args:
        name: A timm name.
        variant: `CONTIGUOUS`, `CHANNELS_LAST` or `COMPILED`.
        batch_size: Images of the batch.
        device: Where it runs.
    """
    torch.manual_seed(0)
    model = load_model(name).train().to(device)
    images = torch.randn(batch_size, *image_config(model).input_size, device=device)
    labels = torch.randint(model.num_classes, (batch_size,), device=device)
    if variant != CONTIGUOUS:
        model = model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    run: nn.Module | Callable = torch.compile(model) if variant == COMPILED else model

    def step() -> None:
        # Set to None and not to zero, as `Trainer` does.
        model.zero_grad()
        F.cross_entropy(run(images), labels).backward()

    return step


def milliseconds(step: Callable[[], None], num_steps: int, device: torch.device) -> float:
    """Time some steps behind one that is not counted.

    Returns:
        Milliseconds of a step, on average.
    """
    step()
    wait(device)
    start = time.perf_counter()
    for _ in range(num_steps):
        step()
    wait(device)
    return 1e3 * (time.perf_counter() - start) / num_steps


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", default=["cifar_*"], metavar="NAME", help="timm names or wildcards [cifar_*]"
    )
    parser.add_argument("--batch_size", type=int, default=64, help="images of a step [%(default)s]")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every network [%(default)s]")
    parser.add_argument("--steps", type=int, default=3, help="steps timed in a turn [%(default)s]")
    parser.add_argument("--compile", action="store_true", help="time torch.compile (default backend), too")
    parser.add_argument("--device", default="cpu", help="where the networks run [%(default)s]")
    parser.add_argument("--json", help="file to write the figures to")
    args = parser.parse_args()

    device = torch.device(args.device)
    names = find_networks(args.names)
    variants = [CONTIGUOUS, CHANNELS_LAST] + [COMPILED] * args.compile
    turns = [(name, variant) for name in names for variant in variants]
    figures: dict[str, dict[str, list[float]]] = {name: {variant: [] for variant in variants} for name in names}
    with tqdm(total=(args.rounds + 1) * len(turns), unit="turn", leave=False, disable=None) as bar:
        steps = {}
        for turn in turns:
            bar.set_description(" ".join(turn))
            # The first step of all compiles, and the first few grow the allocator's pools.
            steps[turn] = make_step(*turn, args.batch_size, device)
            milliseconds(steps[turn], 1, device)
            bar.update()
        for _ in range(args.rounds):
            for name, variant in turns:
                bar.set_description(f"{name} {variant}")
                figures[name][variant].append(milliseconds(steps[name, variant], args.steps, device))
                bar.update()

    print(
        f"Forward + backward in ms: median (lowest to highest) of {args.rounds} rounds of {args.steps} steps, batch "
        f"{args.batch_size}, float32, torch {torch.__version__}, {describe_machine(device)}\n"
    )
    header = ["network", CONTIGUOUS, *(cell for variant in variants[1:] for cell in (variant, "ratio"))]
    print(format_table(header, [[name, *table_row(figures[name])] for name in names], markdown=True))
    if args.json:
        write_json(
            args.json,
            {
                "arguments": vars(args),
                "machine": describe_machine(device),
                "torch": torch.__version__,
                "milliseconds": figures,
            },
        )


def table_row(rounds: dict[str, list[float]]) -> list[str]:
    """Write the cells of a network: each variant, and behind all but the first its ratio to the first."""
    cells, contiguous = [], statistics.median(rounds[CONTIGUOUS])
    for variant, values in rounds.items():
        median = statistics.median(values)
        cells.append(f"{median:.1f} ({min(values):.1f} to {max(values):.1f})")
        if variant != CONTIGUOUS:
            cells.append(f"{median / contiguous:.2f}")
    return cells


if __name__ == "__main__":
    main()
