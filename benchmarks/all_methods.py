"""Every distillation method, plain and condensed, over a few epochs of a part of a data set: does it train, at what cost?

Each run is a process of its own, so that its peak memory is its own. A run whose result is in --json is not repeated,
so an interrupted script continues. Accuracies after three epochs say that a method works, not how well.

    python benchmarks/all_methods.py --data_dir CIFAR100_FOLDER --teacher_checkpoint resnet20_vanilla.pth --json methods.json
"""

import argparse
import json
import math
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from machine import describe_machine
from runs import pair_options, run_apart
from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.utils import logging as transformers_logging

from hf_kcd import DistillationConfig, DistillationTrainer, KCDConfig, KCDTrainerCallback, KnowledgeDataset, load_model
from hf_kcd.artifacts.files import read_json, write_json
from hf_kcd.data import first_points, load_image_data
from hf_kcd.methods import available_methods, method_options
from hf_kcd.methods.registry import get_method
from hf_kcd.reporting import format_table


class StepTimes(TrainerCallback):
    """Notes when each step ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())

    @property
    def milliseconds(self) -> float:
        """Median of a step, of those that follow another at once."""
        gaps = sorted(after - before for before, after in zip(self.ends, self.ends[1:], strict=False))
        return 1e3 * gaps[len(gaps) // 2]


def train(options: argparse.Namespace, method: str, condensed: bool) -> dict[str, Any]:
    """Train once and collect the results."""
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()
    data = load_image_data(options.data, options.data_dir)
    points = first_points(data.train, options.points)
    dataset = KnowledgeDataset(points, data.preprocessing)
    evaluation = KnowledgeDataset(first_points(data.eval, options.eval_points), data.preprocessing, training=False)
    torch.manual_seed(0)
    student = load_model(options.student, dataset.num_classes)
    teacher: Any = load_model(options.teacher, dataset.num_classes, options.teacher_checkpoint)
    if get_method(method).many_teachers:
        # A stand-in for an assistant: the method needs two teachers.
        teacher = [teacher, load_model(options.teacher, dataset.num_classes, options.teacher_checkpoint)]
    # Long first phases are cut short.
    known = method_options(method)
    own = {"first_phase_epochs": min(1, known["first_phase_epochs"])} if "first_phase_epochs" in known else {}
    times = StepTimes()
    callbacks: list[TrainerCallback] = [times]
    if condensed:
        callbacks.append(KCDTrainerCallback(KCDConfig(final_ratio=0.7, epochs_per_stage=1)))
    with tempfile.TemporaryDirectory() as folder:
        config = DistillationConfig(
            folder,
            method=method,
            method_options=own,
            num_train_epochs=options.epochs,
            save_strategy="no",
            logging_strategy="epoch",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = DistillationTrainer(student, teacher, config, dataset, evaluation, callbacks=callbacks)
        before = {name: tensor.clone() for name, tensor in trainer.method.state_dict().items()}
        trainer.train()
        metrics = trainer.evaluate()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    after = trainer.method.state_dict()
    return {
        "method": method,
        "condensed": condensed,
        "top1": metrics["eval_top1"],
        "others": {name: value for name, value in metrics.items() if name.endswith("_top1") and name != "eval_top1"},
        "loss": [line["loss"] for line in lines],
        "parts": {key: [line[key] for line in lines] for key in lines[-1] if key.startswith("loss_")},
        "unchanged": [name for name, tensor in before.items() if torch.equal(tensor, after[name])],
        "ms_per_step": times.milliseconds,
        "cost": trainer.cost.relative_cost,
        "step_cost": trainer.method.step_cost,
        "extra_parameters": sum(parameter.numel() for parameter in trainer.method.parameters()),
        "buffer_bytes": sum(buffer.numel() * buffer.element_size() for buffer in trainer.method.buffers()),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "seconds": sum(trainer.cost.seconds),
        "options": own,
    }


def complaints(run: dict[str, Any]) -> list[str]:
    """List the faults of a run: loss parts that are not finite, or always zero."""
    found = []
    for name, values in run["parts"].items():
        if not all(math.isfinite(value) for value in values):
            found.append(f"{name} is not finite")
        elif not any(values):
            found.append(f"{name} is zero")
    return found


def table(runs: list[dict[str, Any]]) -> str:
    """Write one row per method."""
    kd = next((run["ms_per_step"] for run in runs if run["method"] == "kd" and not run["condensed"]), math.nan)
    rows = []
    for method in sorted({run["method"] for run in runs}):
        plain, condensed = (
            next((run for run in runs if run["method"] == method and run["condensed"] == side), None)
            for side in (False, True)
        )
        if plain is None or condensed is None:
            continue
        rows.append(
            [
                method,
                f"{plain['top1']:.2f}",
                f"{condensed['top1']:.2f}",
                f"{condensed['cost']:.1%}",
                f"{plain['ms_per_step']:.0f}",
                f"{plain['ms_per_step'] / kd:.2f}",
                f"{condensed['ms_per_step']:.0f}",
                f"{plain['extra_parameters']:,}",
                f"{plain['peak_mib']:.0f}",
                "; ".join(complaints(plain) + complaints(condensed)) or "–",
            ]
        )
    header = ["method", "top-1", "KC top-1", "C", "ms/step", "to KD", "KC ms/step", "parameters", "peak MiB", "faults"]
    return format_table(header, rows, markdown=True)


def main() -> None:
    parser = pair_options(__doc__, epochs=3)
    parser.add_argument("methods", nargs="*", help="which; all of them without it")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "CONDENSED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(train(options, options.one[0], options.one[1] == "true")))
        return

    file = Path(options.json)
    runs = read_json(file)["runs"] if file.exists() else []
    wanted = [(method, side) for method in options.methods or available_methods() for side in (False, True)]
    done = {(run["method"], run["condensed"]) for run in runs}
    for method, condensed in tqdm([one for one in wanted if one not in done], unit="run", disable=None):
        try:
            runs.append(run_apart(method, str(condensed).lower()))
        except RuntimeError as error:
            print(f"{method}, condensed {condensed}: {error}", file=sys.stderr)
            continue
        write_json(file, {"machine": describe_machine(torch.device("cpu")), "runs": runs})
    print(table(runs))
    print(
        f"\n{options.teacher} -> {options.student}, {options.points:,} points, {options.epochs} epochs, batch 64, one thread, "
        f"{describe_machine(torch.device('cpu'))}"
    )


if __name__ == "__main__":
    main()
