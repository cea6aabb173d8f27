"""`hf-kcd methods`: list the distillation methods: what each reads, trains and stores, and what a step costs."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict

import torch

from ..artifacts.environment import cpu_name
from ..artifacts.files import write_json
from ..methods import available_methods
from ..methods.facts import MethodFacts, describe_method
from ..reporting import NOTHING, format_table
from .measure import measure_methods
from .options import CommandParser

_EPILOG = """examples:
  hf-kcd methods
  hf-kcd methods kd crd --measure
  hf-kcd methods --student cifar_shufflenetv1 --teacher cifar_wrn_40_2"""


def main(arguments: Sequence[str]) -> None:
    """Run the command with the words behind its name."""
    parser = CommandParser(__doc__, _EPILOG, imports=True)
    parser.add_argument("names", nargs="*", metavar="NAME", help="methods to list [all]")
    parser.add_argument("--student", metavar="NAME", default="cifar_resnet8", help="a timm name [%(default)s]")
    parser.add_argument("--teacher", metavar="NAME", default="cifar_resnet20", help="a timm name [%(default)s]")
    for name, default, text in (
        ("num_points", 50_000, "size of the data set"),
        ("batch_size", 64, "images of a measured step"),
        ("rounds", 3, "turns of each method"),
        ("steps", 5, "measured steps of a turn"),
    ):
        parser.add_argument(f"--{name}", type=int, metavar="N", default=default, help=f"{text} [%(default)s]")
    parser.add_argument("--measure", action="store_true", help="measure a training step of each method here")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers to this file")
    options = parser.parse_args(arguments)

    if not options.measure:
        parser.refuse_unread(options, ("batch_size", "rounds", "steps"), "no step is measured (--measure)")
    names = options.names or available_methods()
    pair = (options.student, options.teacher, options.num_points)
    facts = [describe_method(name, *pair) for name in names]
    milliseconds = None
    if options.measure:
        # The others are compared with KD.
        measured = list(dict.fromkeys(["kd", *names]))
        milliseconds = measure_methods(measured, *pair, options.batch_size, options.rounds, options.steps)
    print(methods_table(facts, milliseconds, markdown=options.markdown))
    print(f"\nFor {options.teacher} -> {options.student} and {options.num_points:,} points. {_explanation(options)}")
    if options.json is not None:
        write_json(options.json, {"methods": [asdict(one) for one in facts], "milliseconds": milliseconds})


def methods_table(
    facts: Sequence[MethodFacts], milliseconds: dict[str, float] | None = None, *, markdown: bool = False
) -> str:
    """Write one row per method, with the milliseconds of a step where they are measured (with those of "kd")."""
    header = ["method", "paper", "reads of the student", "of the teacher", "phase", "trains", "memory"]
    rows = []
    for one in facts:
        phase, trains = (
            f"{number:,}" if number else NOTHING for number in (one.first_phase_epochs, one.num_parameters)
        )
        memory = f"{one.memory_bytes / 1e6:,.1f} MB" if one.memory_bytes >= 50_000 else NOTHING
        reads = [", ".join(names) or NOTHING for names in (one.student_reads, one.teacher_reads)]
        rows.append([one.name, one.paper or NOTHING, *reads, phase, trains, memory])
    if milliseconds is not None:
        header += ["ms/step", "to KD"]
        for row in rows:
            own = milliseconds[row[0]]
            row += [f"{own:.0f}", f"{own / milliseconds['kd']:.2f}"]
    return format_table(header, rows, markdown, text_columns=4)


def _explanation(options: argparse.Namespace) -> str:
    text = """phase: epochs of a first phase before the training; trains: weights in addition to the student's;
memory: stored values of the points, and statistics."""
    if options.measure:
        text += f" ms/step: median of {options.rounds} turns of {options.steps} steps, batch {options.batch_size},"
        text += f"\nthreads: {torch.get_num_threads()}, {cpu_name()}; to KD: relative to KD."
    return text
