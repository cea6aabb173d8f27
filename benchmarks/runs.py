"""Shared by the benchmarks of whole trainings: options for a pair and its data, and runs in their own processes."""

import argparse
import json
import subprocess
import sys
from typing import Any


def pair_options(description: str, epochs: int) -> argparse.ArgumentParser:
    """Make the parser of such a benchmark.

    Args:
        description: Of the benchmark, for its help.
        epochs: Default number of epochs.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar100", help="data set: digits, cifar100, a folder or a Hub id")
    parser.add_argument("--data_dir", help="folder with the data set's files")
    parser.add_argument("--teacher", default="cifar_resnet20")
    parser.add_argument("--teacher_checkpoint", required=True, help="file with the teacher's weights")
    parser.add_argument("--student", default="cifar_resnet8")
    parser.add_argument(
        "--points", type=int, default=5000, help="points of the training set that are used [%(default)s]"
    )
    parser.add_argument("--eval_points", type=int, default=2000, help="points that are evaluated on [%(default)s]")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--json", required=True, help="file for the results; finished runs in it are not repeated")
    return parser


def run_apart(*words: str) -> Any:
    """Run this script again with `--one` and more words, and return the JSON in the last line of its output.

    Raises:
        RuntimeError: With the last line of its errors, when it fails.
    """
    process = subprocess.run([sys.executable, *sys.argv, "--one", *words], capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(process.stderr.strip().splitlines()[-1])
    return json.loads(process.stdout.splitlines()[-1])
