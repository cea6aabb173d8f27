"""`hf-kcd demo`: compare a student alone, with KD, with condensed KD and with random points, on small images of digits."""

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ..artifacts.files import write_json
from ..artifacts.results import Results
from ..artifacts.run_folder import RESULTS_NAME
from ..errors import whole_number
from ..reporting import plot_curves, read_results, results_table, save_figure
from .options import CommandParser, refuse_full
from .recipe import read_recipe
from .run import run

# With all 1,501 training images the small student needs no teacher (98 % and more, whatever the method); with 300 it does.
_TRAIN_POINTS = 300
_INTRODUCTION = f"""Digits (1,797 images of 8 x 8, embedded in scikit-learn). The teacher, cifar_resnet20, learns from all 1,501 training
images; the students, cifar_resnet8, from {_TRAIN_POINTS} of them (with all, they need no teacher), for {{epochs}} epochs in 6 stages.
All are tested on the other 296; one image is 0.34 %.
"""
_STUDENTS = {
    "student alone": ("alone", ["--method", "ce"]),
    "KD": ("kd", []),
    "KC-KD (the paper)": ("kc_kd", ["--condense"]),
    "KD, random points, same cost": ("random", ["--condense", "--value", "random", "--augmentation", "none"]),
}


def main(arguments: Sequence[str]) -> None:
    """Run the command with the words behind its name."""
    parser = CommandParser(__doc__)
    parser.add_argument("--output_dir", metavar="FOLDER", default="demo", help="folder to write to [%(default)s]")
    parser.add_argument("--seeds", type=int, metavar="N", default=3, help="runs of each student [%(default)s]")
    parser.add_argument("--quick", action="store_true", help="a quarter of the epochs, to see that everything runs")
    options = parser.parse_args(arguments)
    folder = Path(options.output_dir)
    whole_number("seeds", options.seeds)
    refuse_full(folder, "--output_dir")

    started = time.perf_counter()
    # Images of 8 x 8 are too small for several threads, which only wait for each other.
    torch.set_num_threads(1)
    teacher_epochs, epochs, stage = (3, 6, 1) if options.quick else (12, 24, 4)
    print(_INTRODUCTION.format(epochs=epochs))
    words = f"--network cifar_resnet20 --method ce --lr_schedule cosine --num_train_epochs {teacher_epochs}".split()
    groups = {"teacher": [_run(folder / "teacher", words, seed=0, plots=True)]}
    for name, (subfolder, own) in _STUDENTS.items():
        words = f"--student cifar_resnet8 --train_points {_TRAIN_POINTS} --num_train_epochs {epochs}".split() + own
        if "ce" not in own:
            words += ["--teacher", str(folder / "teacher")]
        if "--condense" in own:
            words += ["--epochs_per_stage", str(stage)]
        # The plots of one seed are enough.
        seeds = range(options.seeds)
        groups[name] = [_run(folder / subfolder / f"seed-{seed}", words, seed, plots=seed == 0) for seed in seeds]
    print(f"\n{results_table(groups)}\n\nMean ± standard deviation over seeds. Differences within it are noise.")
    write_json(folder / RESULTS_NAME, groups)
    first = [read_results(folder / subfolder / "seed-0" / RESULTS_NAME) for subfolder, _ in _STUDENTS.values()]
    save_figure(plot_curves(first, list(_STUDENTS)), folder / "comparison.png")
    print(f"\nEverything took {time.perf_counter() - started:.0f} s. {_next_steps(folder, options.seeds)}")


def _run(folder: Path, words: list[str], seed: int, plots: bool) -> Results:
    words = ["--data", "digits", *words, "--seed", str(seed), "--plots", str(plots).lower()]
    words += ["--save_strategy", "no", "--output_dir", str(folder)]
    results = run(read_recipe("distill", words), quiet=True)
    top1, seconds = results["accuracy"]["last"]["top1"], results["seconds"]["training"]
    print(f"{folder!s:<32} top-1 {top1:6.2f} %   C {results['cost']['paid']:6.1%}   {seconds:5.1f} s", flush=True)
    return results


def _next_steps(folder: Path, num_seeds: int) -> str:
    condensed = folder / "kc_kd" / "seed-0"
    other = folder / ("kc_kd" if num_seeds > 1 else "random") / f"seed-{min(1, num_seeds - 1)}"
    # The environment that `make demo` builds may not be activated.
    started_as = Path(sys.argv[0])
    command = started_as if started_as.name == "hf-kcd" and not shutil.which("hf-kcd") else "hf-kcd"
    return f"""The results are in {folder}: results.json, comparison.png, and one folder per run with
the student (model.safetensors), its mask and recipe.yaml. See the plots of the first condensed run in {condensed / "plots"}.

What to try next:
  {command} mask show {condensed}
  {command} mask compare {condensed} {other}
  {command} evaluate {condensed} --data digits
  {command} distill --config {condensed / "recipe.yaml"} --final_ratio 0.5 --output_dir runs/half
  {command} push {condensed} me/digits --dry_run {folder / "hub"}
  {command} distill --help"""
