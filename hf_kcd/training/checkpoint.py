"""Checkpoints: which one is whole and of this run."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

from transformers.trainer_callback import TrainerState

from ..artifacts.files import load_tensors, read_json
from ..artifacts.identity import DatasetIdentity
from .cost import COST_NAME

RUN_NAME = "run.json"
METHOD_NAME = "method.safetensors"
STATE_NAME = "kcd_state.safetensors"
_FOLDER = re.compile(r"checkpoint-(\d+)$")


def missing_from_checkpoint(folder: str | Path) -> list[str]:
    """List the files that a checkpoint lacks to be resumed, absent or cut short; empty for a whole one."""
    folder = Path(folder)
    missing, condensed = [], False
    for name in ("config.json", COST_NAME, RUN_NAME):
        try:
            values = read_json(folder / name)
            condensed = condensed or (name == RUN_NAME and values["condensation"] is not None)
        except (OSError, ValueError):
            missing.append(name)
    random_states = [path.name for path in folder.glob("rng_state*.pth")] or ["rng_state.pth"]
    # torch.save writes a zip archive, whose table of contents comes last.
    archives = ("optimizer.pt", "scheduler.pt", *random_states)
    missing += [name for name in archives if not zipfile.is_zipfile(folder / name)]
    tensors = {"model.safetensors"} | {path.name for path in folder.glob("*.safetensors")}
    for name in tensors | ({STATE_NAME} if condensed else set()):
        try:
            load_tensors(folder / name)
        except (OSError, ValueError):
            missing.append(name)
    # The Trainer writes its state last, so an interrupted checkpoint lacks it or has a part of it.
    try:
        TrainerState.load_from_json(str(folder / "trainer_state.json"))
    except (OSError, json.JSONDecodeError, TypeError, UnicodeDecodeError):
        missing.append("trainer_state.json")
    return sorted(missing)


def check_whole(folder: str | Path) -> None:
    """Refuse a checkpoint that cannot be resumed."""
    if missing := missing_from_checkpoint(folder):
        raise ValueError(f"{folder} is not a whole checkpoint, for lack of {', '.join(missing)}: take an earlier one.")


def last_whole_checkpoint(output_dir: str | Path) -> Path:
    """Find the latest checkpoint of a run that can be resumed, past those that an interruption cut short."""
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if path.is_dir() and _FOLDER.search(path.name)]
    for folder in sorted(folders, key=lambda path: -int(_FOLDER.search(path.name)[1])):
        if not missing_from_checkpoint(folder):
            return folder
    raise FileNotFoundError(f"{output_dir} has no whole checkpoint to resume from: start anew, or check its name.")


def check_run(folder: str | Path, run: dict[str, Any]) -> None:
    """Refuse a checkpoint of another run; `run` is what the two must share, with the data set's identity."""
    saved = read_json(Path(folder) / RUN_NAME)
    for name, own in run.items():
        other = saved.get(name)
        if name == "dataset":
            difference = DatasetIdentity.from_dict(other).difference(DatasetIdentity.from_dict(own))
        else:
            difference = None if other == own else f"{name} is {own} here and {other} there"
        if difference:
            raise ValueError(
                f"{folder} is of another run: {difference}. Use the same settings, or start anew in another output_dir."
            )
