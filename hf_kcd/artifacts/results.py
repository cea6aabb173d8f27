"""The results of a run as one JSON file: accuracy, cost, seconds and history. Reading checks every field."""

import json
from pathlib import Path
from typing import Any

from .artifact import read_description
from .files import write_json
from .run_lock import state_of

TYPE = "hf_kcd.Results"
FORMAT_VERSION = 1
_KEYS = {"student", "teacher", "data", "method", "condensation", "accuracy", "cost", "seconds", "seed", "history"}
_KEYS |= {"num_points", "num_epochs"}
# Two runs with these in common are one experiment with two seeds.
_SETTINGS = ("student", "teacher", "data", "method", "method_options", "condensation", "mask", "soft_labels")
_SETTINGS += ("num_epochs", "optimisation")

Results = dict[str, Any]


def write_results(path: str | Path, results: Results) -> None:
    """Write results, as `run_results` returned them, as a JSON file, whole or not at all."""
    write_json(path, results)


def read_results(path: str | Path) -> Results:
    """Read the results of a run, as `write_results` wrote them.

    Raises:
        FileNotFoundError: When the file does not exist.
        ValueError: When it is another kind of file, damaged, or of a newer format.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist: {state_of(Path(path).parent)}.")
    otherwise = "holds no results of a run. Give the results.json of a run's folder."
    results = read_description(path, TYPE, FORMAT_VERSION, otherwise, _KEYS, str(path))
    if wrong := [name for name, fits in _SHAPES.items() if not fits(results.get(name))]:
        raise ValueError(f"{path} is damaged: the results of a run never have such {', '.join(wrong)}. Run it again.")
    return results


def _is_number(value: Any) -> bool:
    # NaN compares as False; larger numbers cannot be drawn on an axis.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


def _is_name(value: Any) -> bool:
    # It is printed, so it has no control characters and fits on a line.
    return isinstance(value, str) and value.isprintable() and len(value) < 1000


def _has_numbers(value: Any, *names: str) -> bool:
    return isinstance(value, dict) and all(_is_number(value.get(name)) for name in names)


def _is_first_phase(value: dict[str, Any]) -> bool:
    # Earlier files lack it.
    return value.get("first_phase") is None or _is_number(value["first_phase"])


def _is_accuracy(value: Any) -> bool:
    return isinstance(value, dict) and all(_has_numbers(value.get(name), "top1", "epoch") for name in ("last", "best"))


def _is_history(value: Any) -> bool:
    if not isinstance(value, dict) or not all(isinstance(column, list) for column in value.values()):
        return False
    return (
        {"epoch", "num_kept", "stage", "top1", "eval_loss", "loss"} <= set(value)
        and {len(column) for column in value.values()} == {len(value["epoch"])} != {0}
        and all(entry is None or _is_number(entry) for column in value.values() for entry in column)
        and None not in value["epoch"] + value["num_kept"]
    )


# A published file is a stranger's: every field that is read later must be present and of the right type.
_SHAPES = {
    "student": _is_name,
    "teacher": lambda value: value is None or _is_name(value),
    "data": _is_name,
    "method": _is_name,
    "condensation": lambda value: value is None or (isinstance(value, dict) and _is_name(value.get("value"))),
    "mask": lambda value: value is None or _has_numbers(value, "num_mixed"),
    "soft_labels": lambda value: value is None or _has_numbers(value, "num_views", "top_k", "bits"),
    "accuracy": lambda value: value is None or _is_accuracy(value),
    "evaluation_set": lambda value: value is None or _is_name(value),
    "cost": lambda value: (
        _has_numbers(value, "planned", "paid", "points") and value["points"] > 0 and _is_first_phase(value)
    ),
    "seconds": lambda value: (
        _has_numbers(value, "training") and isinstance(value.get("per_stage"), list) and _is_first_phase(value)
    ),
    "seed": lambda value: isinstance(value, int),
    "history": _is_history,
}


def run_label(results: Results) -> str:
    """Name a run in a few words, as the papers do: "KC-KD, resnet20 → resnet8"."""
    condensation = results["condensation"]
    name = results["method"].upper()
    if condensation is not None:
        # A random ranking condenses no knowledge: the papers call it random selection.
        name = f"{name}, random selection" if condensation["value"] == "random" else f"KC-{name}"
        if condensation.get("cumulative_mixing"):
            name += " (released code)"
    if results.get("mask") is not None:
        # Fig. 4 calls the two "+VAKS" and "+DS" (direct selection).
        name += " on a mask" if results["mask"]["num_mixed"] else " on a mask, unmixed"
    if results.get("soft_labels") is not None:
        stored = results["soft_labels"]
        coded = f", top {stored['top_k']}" if stored["top_k"] else ""
        name += f", soft labels ({stored['num_views']} views{coded}, {stored['bits']} bits)"
    student = results["student"].removeprefix("cifar_")
    teacher = (results["teacher"] or "").removeprefix("cifar_")
    return f"{name}, {teacher} → {student}" if teacher else f"{name}, {student}"


def group_results(results: list[Results]) -> dict[str, list[Results]]:
    """Group runs that differ only in their seed and machine, by name; experiments with equal names get a number."""
    experiments: dict[str, list[Results]] = {}
    for result in results:
        settings = {name: result.get(name) for name in _SETTINGS}
        if settings["condensation"]:
            # Files of earlier versions lack the option.
            settings["condensation"] = {"min_per_class": 0, **settings["condensation"]}
        experiments.setdefault(json.dumps(settings, sort_keys=True), []).append(result)
    groups: dict[str, list[Results]] = {}
    for experiment in experiments.values():
        label = run_label(experiment[0])
        twins = sum(name == label or name.startswith(f"{label} #") for name in groups)
        groups[f"{label} #{twins + 1}" if twins else label] = experiment
    return groups
