"""KD from soft labels against KD from the teacher, on one knowledge mask: seconds, bytes and accuracy.

A condensed training makes the mask first. Then the same student is trained on it from scratch, under the teacher and under
soft labels of several numbers of views, bits and classes; and a step of either is timed, in turns in one process. Whatever
stands in --json is not repeated, so the script goes on where it was interrupted.

    python benchmarks/soft_labels.py --data_dir CIFAR100_FOLDER --teacher_checkpoint resnet20_vanilla.pth --json soft_labels.json
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from machine import describe_machine
from runs import pair_options, run_apart
from torch import nn
from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.utils import logging as transformers_logging

from hf_kcd import (
    DistillationConfig,
    DistillationTrainer,
    KCDConfig,
    KCDTrainerCallback,
    KnowledgeDataset,
    KnowledgeMask,
    load_model,
)
from hf_kcd.artifacts.files import read_json, write_json
from hf_kcd.data import SoftLabels, first_points, load_image_data
from hf_kcd.reporting.compare import format_table
from hf_kcd.training.soft_labels import make_soft_labels

# Views, classes that are stored (0: all), bits; None is the teacher itself. As many views as epochs: no view twice.
TEACHER = None
SETTINGS = ((1, 0, 8), (4, 0, 8), (4, 0, 16), (4, 10, 8), (-1, 0, 8))
WARM_UP = 5


class StepTimes(TrainerCallback):
    """Notes when each step ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())


class Bench:
    """The data, the teacher and the mask of one benchmark, and a training with them."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.set_num_threads(1)
        transformers_logging.set_verbosity_error()
        self.options = options
        self.data = load_image_data(options.data, options.data_dir)
        self.points = first_points(self.data.train, options.points)
        self.mask_folder = Path(options.json).with_suffix("") / "mask"

    def teacher(self) -> nn.Module:
        """The network that teaches."""
        return load_model(self.options.teacher, self.train_set(0).num_classes, self.options.teacher_checkpoint)

    def train_set(self, seed: int) -> KnowledgeDataset:
        """The training points, all of them."""
        return KnowledgeDataset(self.points, self.data.preprocessing, seed=seed)

    def soft_labels(self, setting: tuple[int, int, int], mask: KnowledgeMask, seed: int) -> SoftLabels:
        """Those of a setting, of the mask's points."""
        views, top_k, bits = setting
        dataset = self.train_set(seed)
        dataset.apply(mask)
        return make_soft_labels(self.teacher(), dataset, views if views > 0 else self.options.epochs, top_k, bits)

    def trainer(self, folder: str, teacher: nn.Module | SoftLabels, seed: int, **given: Any) -> DistillationTrainer:
        """A trainer of a fresh student; `given` are the trainer's arguments besides, and `max_steps`."""
        torch.manual_seed(seed)
        dataset = self.train_set(seed)
        config = DistillationConfig(
            folder,
            num_train_epochs=self.options.epochs,
            max_steps=given.pop("max_steps", -1),
            seed=seed,
            save_strategy="no",
            logging_strategy="epoch",
            report_to="none",
            disable_tqdm=True,
        )
        return DistillationTrainer(
            load_model(self.options.student, dataset.num_classes), teacher, config, dataset, **given
        )

    def make_mask(self) -> dict[str, Any]:
        """Condense once and keep the mask beside the results."""
        stage = max(1, self.options.epochs // 6)
        callback = KCDTrainerCallback(KCDConfig(final_ratio=0.7, epochs_per_stage=stage))
        with tempfile.TemporaryDirectory() as folder:
            trainer = self.trainer(folder, self.teacher(), seed=0, callbacks=[callback])
            trainer.train()
        trainer.knowledge_mask.save_pretrained(self.mask_folder)
        return {"num_kept": len(trainer.knowledge_mask.kept), "seconds": sum(trainer.cost.seconds)}

    def train(self, setting: tuple[int, int, int] | None, seed: int) -> dict[str, Any]:
        """Train on the mask once and say what came of it."""
        mask = KnowledgeMask.from_pretrained(self.mask_folder)
        begun = time.perf_counter()
        teacher = self.teacher() if setting is TEACHER else self.soft_labels(setting, mask, seed)
        making = time.perf_counter() - begun
        evaluation = KnowledgeDataset(
            first_points(self.data.eval, self.options.eval_points), self.data.preprocessing, training=False
        )
        with tempfile.TemporaryDirectory() as folder:
            trainer = self.trainer(folder, teacher, seed, mask=mask, eval_dataset=evaluation)
            trainer.train()
            metrics = trainer.evaluate()
        return {
            "soft_labels": None if setting is TEACHER else teacher.description(),
            "making_seconds": 0.0 if setting is TEACHER else making,
            "seconds": sum(trainer.cost.seconds),
            "top1": metrics["eval_top1"],
            "top5": metrics["eval_top5"],
        }

    def time_steps(self) -> dict[str, float]:
        """Milliseconds of a step, median: under the teacher and under soft labels, in turns."""
        mask = KnowledgeMask.from_pretrained(self.mask_folder)
        answers = {"8 bits": (1, 0, 8), "16 bits": (1, 0, 16), "top 10, 8 bits": (1, 10, 8)}
        teachers = {name: self.soft_labels(setting, mask, 0) for name, setting in answers.items()}
        teachers = {"teacher": self.teacher(), **teachers}
        seconds: dict[str, list[float]] = {name: [] for name in teachers}
        for _ in range(self.options.rounds):
            for name, teacher in teachers.items():
                times = StepTimes()
                with tempfile.TemporaryDirectory() as folder:
                    steps = WARM_UP + self.options.steps
                    self.trainer(folder, teacher, 0, mask=mask, callbacks=[times], max_steps=steps).train()
                ends = times.ends[WARM_UP - 1 :]
                seconds[name] += [after - before for before, after in pairwise(ends)]
        return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}


def table(results: dict[str, Any]) -> str:
    """Lay the trainings out, a setting a row, the seeds of each averaged."""
    rows = []
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in results["runs"]:
        groups.setdefault(json.dumps(run["setting"]), []).append(run)
    for runs in groups.values():
        stored = runs[0]["soft_labels"]
        top1 = [run["top1"] for run in runs]
        spread = f" ± {statistics.stdev(top1):.2f}" if len(top1) > 1 else ""
        spent = statistics.mean(run["seconds"] for run in runs)
        if stored is None:
            words = ["the teacher", "–", "–", "–", "–", "–"]
        else:
            making = statistics.mean(run["making_seconds"] for run in runs)
            per_point = f"{stored['bytes'] / stored['num_points']:,.0f}"
            words = ["soft labels", str(stored["num_views"]), str(stored["top_k"] or "all"), str(stored["bits"])]
            words += [f"{stored['bytes']:,} ({per_point} a point)", f"{making:.0f}"]
        rows.append([*words, f"{spent:.0f}", f"{statistics.mean(top1):.2f}{spread}"])
    header = ["taught by", "views", "classes", "bits", "bytes", "s to make", "s of training", "top-1"]
    return format_table(header, rows, markdown=True)


def step_table(milliseconds: dict[str, float]) -> str:
    """Lay the steps' times out."""
    rows = [[name, f"{value:.1f}", f"{value / milliseconds['teacher']:.2f}"] for name, value in milliseconds.items()]
    return format_table(["a step taught by", "ms (median)", "to teacher"], rows, markdown=True)


def main() -> None:
    parser = pair_options(__doc__, epochs=12)
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each setting [%(default)s]")
    parser.add_argument("--rounds", type=int, default=8, help="turns of the timing [%(default)s]")
    parser.add_argument("--steps", type=int, default=12, help="steps of each turn [%(default)s]")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        task = json.loads(options.one)
        bench = Bench(options)
        found = (
            {"mask": bench.make_mask, "steps": bench.time_steps}[task]()
            if isinstance(task, str)
            else bench.train(*task)
        )
        print(json.dumps(found))
        return

    torch.set_num_threads(1)
    file = Path(options.json)
    results: dict[str, Any] = read_json(file) if file.exists() else {"mask": None, "steps": None, "runs": []}
    done = [(run["setting"], run["seed"]) for run in results["runs"]]
    wanted = [(setting, seed) for seed in range(options.seeds) for setting in (TEACHER, *map(list, SETTINGS))]
    tasks: list[Any] = [name for name in ("mask", "steps") if results[name] is None]
    for task in tqdm([*tasks, *(one for one in wanted if one not in done)], unit="run", disable=None):
        try:
            found = run_apart(json.dumps(task))
        except RuntimeError as error:
            sys.exit(f"{task}: {error}")
        if isinstance(task, str):
            results[task] = found
        else:
            results["runs"].append({"setting": task[0], "seed": task[1], **found})
        write_json(file, {"machine": describe_machine(), **results})
    print(table(results))
    print(f"\n{step_table(results['steps'])}")
    print(
        f"\n{options.teacher} -> {options.student}, {results['mask']['num_kept']:,} of {options.points:,} points, "
        f"{options.epochs} epochs, batch 64, {options.seeds} of each, {describe_machine()}. Trainings follow each "
        "other, so that their seconds are of different times; steps were timed in turns."
    )


if __name__ == "__main__":
    main()
