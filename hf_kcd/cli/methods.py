"""`hf-kcd methods`: list the distillation methods, what each reads, trains and keeps, and what a step costs."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

import torch

from ..artifacts.environment import cpu_name
from ..artifacts.files import write_json
from ..methods import available_methods
from ..methods.facts import MethodFacts, describe_method
from ..reporting import NOTHING, format_table
from ..training.step_time import measure_methods

_EPILOG = """examples:
  hf-kcd methods
  hf-kcd methods kd crd --measure
  hf-kcd methods --student cifar_shufflenetv1 --teacher cifar_wrn_40_2"""


def main(arguments: Sequence[str]) -> None:
    """Run the command with the words behind its name."""
    parser = argparse.ArgumentParser(
        prog="hf-kcd methods",
        description=__doc__.split(": ")[1],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="methods; all of them without it")
    parser.add_argument("--student", default="cifar_resnet8", help="a timm name [%(default)s]")
    parser.add_argument("--teacher", default="cifar_resnet20", help="a timm name [%(default)s]")
    parser.add_argument("--num_points", type=int, default=50_000, help="points of the data set [%(default)s]")
    parser.add_argument("--measure", action="store_true", help="measure a step of each on this machine, in turns")
    parser.add_argument("--batch_size", type=int, default=64, help="images of a measured step [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each method [%(default)s]")
    parser.add_argument("--steps", type=int, default=5, help="measured steps of a turn [%(default)s]")
    parser.add_argument("--markdown", action="store_true", help="write a Markdown table")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    options = parser.parse_args(arguments)

    names = options.names or available_methods()
    describe = partial(
        describe_method, student=options.student, teacher=options.teacher, num_points=options.num_points
    )
    facts = [describe(name) for name in names]
    milliseconds = None
    if options.measure:
        # KD is what the others are compared with.
        milliseconds = measure_methods(
            list(dict.fromkeys(["kd", *names])),
            options.student,
            options.teacher,
            options.num_points,
            options.batch_size,
            options.rounds,
            options.steps,
        )
    print(methods_table(facts, milliseconds, markdown=options.markdown))
    print(f"\nFor {options.teacher} -> {options.student} and {options.num_points:,} points. {_explanation(options)}")
    if options.json is not None:
        write_json(options.json, {"methods": [asdict(one) for one in facts], "milliseconds": milliseconds})


def methods_table(
    facts: Sequence[MethodFacts], milliseconds: dict[str, float] | None = None, *, markdown: bool = False
) -> str:
    """Write one row per method.

    Args:
        facts: What `describe_method` returned.
        milliseconds: What `measure_methods` returned, "kd" among it; None for no such column.
        markdown: Write a Markdown table instead of aligned text.
    """
    header = ["method", "paper", "reads of the student", "of the teacher", "phase", "trains", "memory"]
    rows = [
        [
            one.name,
            one.paper or NOTHING,
            ", ".join(one.student_reads),
            ", ".join(one.teacher_reads) or NOTHING,
            f"{one.first_phase_epochs}" if one.first_phase_epochs else NOTHING,
            f"{one.num_parameters:,}" if one.num_parameters else NOTHING,
            f"{one.memory_bytes / 1e6:,.1f} MB" if one.memory_bytes >= 50_000 else NOTHING,
        ]
        for one in facts
    ]
    if milliseconds is not None:
        header += ["ms/step", "to KD"]
        for row in rows:
            own = milliseconds[row[0]]
            row += [f"{own:.0f}", f"{own / milliseconds['kd']:.2f}"]
    return format_table(header, rows, markdown, text_columns=4)


def _explanation(options: argparse.Namespace) -> str:
    text = (
        "phase: epochs of a first phase before the training; trains: weights beside the student's;\nmemory: what is kept "
        "of the points, and statistics."
    )
    if options.measure:
        threads = torch.get_num_threads()
        text += (
            f" ms/step: median of {options.rounds} turns of {options.steps} steps, batch {options.batch_size},\n{threads} "
            f"thread{'s' if threads > 1 else ''}, {cpu_name()}; to KD: in relation to KD."
        )
    return text
