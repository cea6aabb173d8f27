"""What a finished run reached and what it paid, as one JSON file: accuracy, cost, seconds, and the way there."""

import json
import math
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..files import read_description, write_json
from ..methods import method_options
from ..models import network_name
from ..version import library_versions

if TYPE_CHECKING:
    from ..training import DistillationTrainer

# Files of a run's folder.
RESULTS_NAME = "results.json"
RECIPE_NAME = "recipe.yaml"

_TYPE = "hf_kcd.Results"
_FORMAT_VERSION = 1
_KEYS = {"student", "teacher", "data", "method", "condensation", "accuracy", "cost", "seconds", "seed", "history"}
_KEYS |= {"num_points", "num_epochs"}
# What makes two runs one experiment with several seeds.
_SETTINGS = (
    "student",
    "teacher",
    "data",
    "method",
    "method_options",
    "condensation",
    "mask",
    "soft_labels",
    "num_epochs",
    "optimisation",
)

Results = dict[str, Any]


def run_results(trainer: "DistillationTrainer", *, data: str, command: str | None = None) -> Results:
    """Collect the results of a trainer that has trained, as plain JSON values.

    The cost is stated twice, each time relative to training on all points of the whole training set in every epoch:
    `planned` is the schedule's, `paid` counts the points that were really drawn. Losses of an epoch are the means of
    the log's lines within it (`logging_steps` apart), None for an epoch without a line.

    Args:
        trainer: The trainer, after `train()`.
        data: Name of the data set.
        command: What was typed to make the run.

    Returns:
        The results; accuracy in per cent, None for a run that was never evaluated, and "saved" beside "last" and "best" where
        the weights are not those of the last epoch (`load_best_model_at_end`); seconds of training alone.

    Raises:
        RuntimeError: When nothing has been trained yet.
    """
    args, schedule, account = trainer.args, trainer.schedule, trainer.account
    trained = [epoch for epoch in range(schedule.num_epochs) if account.points[epoch]]
    if not trained:
        raise RuntimeError("There are no results yet: train() first.")
    history = [_epoch_history(trainer, epoch) for epoch in trained]
    results = {
        "type": _TYPE,
        "format_version": _FORMAT_VERSION,
        "student": network_name(trainer.student),
        # A teacher that the method does not read (a student alone, from a pair's recipe) taught nothing.
        "teacher": trainer.teacher_name if trainer.method.teacher_reads else None,
        "data": data,
        "method": args.method,
        "method_options": {**method_options(args.method), **args.method_options},
        "condensation": None if trainer.kcd is None else trainer.kcd.config.to_dict(),
        "mask": _mask_description(trainer),
        # The teacher's stored answers where these taught, None where the network did.
        "soft_labels": None if trainer.soft_labels is None else trainer.soft_labels.description(),
        "num_parameters": sum(parameter.numel() for parameter in trainer.student.parameters()),
        "num_points": account.num_points,
        "num_epochs": schedule.num_epochs,
        "epochs_trained": trainer.state.epoch,
        "optimisation": _optimisation(args),
        "accuracy": _accuracy(trainer.state.log_history, "eval", _best_step(trainer)),
        # Of those that learnt along and are saved beside the student, which need not be the best.
        "networks": {name: _accuracy(trainer.state.log_history, f"eval_{name}") for name in trainer.method.networks()},
        "cost": {
            "planned": schedule.absolute_cost / (account.num_points * account.num_epochs),
            "paid": account.relative_cost,
            "points": sum(account.points),
            # What a method states of its steps counts the teacher's share, which soft labels save.
            "step": trainer.method.step_cost if trainer.soft_labels is None else None,
        },
        "seconds": {"training": sum(account.seconds), "per_stage": _seconds_per_stage(trainer, trained)},
        "seed": args.seed,
        "world_size": args.world_size,
        "versions": {"python": platform.python_version(), **library_versions()},
        "machine": _machine(args.device),
        "command": command,
        "history": {name: [epoch[name] for epoch in history] for name in history[0]},
    }
    # Options may hold tuples: what is handed out is what a reader of the file gets.
    return json.loads(json.dumps(results, allow_nan=False))


def write_results(path: str | Path, results: Results) -> None:
    """Write results as a JSON file, whole or not at all.

    Args:
        path: The file.
        results: What `run_results` returned.
    """
    write_json(path, results)


def read_results(path: str | Path) -> Results:
    """Read the results of a run.

    Args:
        path: The file that `write_results` wrote.

    Raises:
        FileNotFoundError: When it does not exist.
        ValueError: When it is no such file, damaged, or of a newer format.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist: the run is not finished, or its folder is another one.")
    results = read_description(
        path,
        _TYPE,
        _FORMAT_VERSION,
        "holds no results of a run. Give the results.json of a run's folder.",
        required=_KEYS,
        again="Run it again.",
    )
    wrong = [name for name, fits in _SHAPES.items() if not fits(results.get(name))]
    if wrong:
        raise ValueError(
            f"{path} is damaged: {', '.join(wrong)} is not what results of a run have there. Run it again."
        )
    return results


def _is_number(value: Any) -> bool:
    # NaN compares as False, and what is beyond can be drawn on no axis.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


def _is_name(value: Any) -> bool:
    # It is printed: no control characters, and no more of it than a line.
    return isinstance(value, str) and value.isprintable() and len(value) < 1000


def _has_numbers(value: Any, *names: str) -> bool:
    return isinstance(value, dict) and all(_is_number(value.get(name)) for name in names)


def _is_history(value: Any) -> bool:
    if not isinstance(value, dict) or not all(isinstance(column, list) for column in value.values()):
        return False
    columns = list(value.values())
    entries = [entry for column in columns for entry in column]
    return (
        {"epoch", "num_kept", "stage", "top1", "eval_loss", "loss"} <= set(value)
        and {len(column) for column in columns} == {len(value["epoch"])} != {0}
        and all(entry is None or _is_number(entry) for entry in entries)
        and None not in value["epoch"]
        and None not in value["num_kept"]
    )


# A published file is a stranger's: what is read of it later has to be there, and of its kind.
_SHAPES = {
    "student": _is_name,
    "teacher": lambda value: value is None or _is_name(value),
    "data": _is_name,
    "method": _is_name,
    "condensation": lambda value: value is None or (isinstance(value, dict) and _is_name(value.get("value"))),
    "mask": lambda value: value is None or _has_numbers(value, "num_mixed"),
    "soft_labels": lambda value: value is None or _has_numbers(value, "num_views", "top_k", "bits"),
    "accuracy": lambda value: (
        value is None
        or (
            isinstance(value, dict)
            and all(_has_numbers(value.get(which), "top1", "epoch") for which in ("last", "best"))
        )
    ),
    "cost": lambda value: _has_numbers(value, "planned", "paid", "points") and value["points"] > 0,
    "seconds": lambda value: _has_numbers(value, "training") and isinstance(value.get("per_stage"), list),
    "seed": lambda value: isinstance(value, int),
    "history": _is_history,
}


def run_label(results: Results) -> str:
    """Name a run in a few words, as the papers do: "KC-KD, resnet20 → resnet8"."""
    condensation = results["condensation"]
    name = results["method"].upper()
    if condensation is not None:
        # A ranking drawn at random condenses no knowledge: the papers call it random selection.
        drawn = condensation["value"] == "random"
        name = f"{name}, random selection" if drawn else f"KC-{name}"
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
    """Bring runs together that differ in nothing but their seed (and the machine they ran on).

    Args:
        results: Results of any runs.

    Returns:
        Lists of results by name; names of different experiments that would read alike get a number.
    """
    experiments: dict[str, list[Results]] = {}
    for result in results:
        settings = json.dumps([result.get(name) for name in _SETTINGS], sort_keys=True)
        experiments.setdefault(settings, []).append(result)
    groups: dict[str, list[Results]] = {}
    for experiment in experiments.values():
        label = run_label(experiment[0])
        twins = sum(name == label or name.startswith(f"{label} #") for name in groups)
        groups[f"{label} #{twins + 1}" if twins else label] = experiment
    return groups


def _epoch_history(trainer: "DistillationTrainer", epoch: int) -> dict[str, float | None]:
    log = trainer.state.log_history
    # The log counts epochs done: what it says at 3.0 is the end of epoch 2.
    lines = [line for line in log if "loss" in line and epoch < line["epoch"] <= epoch + 1]
    evaluations = [line for line in log if "eval_loss" in line and epoch < line["epoch"] <= epoch + 1]
    last = evaluations[-1] if evaluations else {}
    parts = sorted({name for line in log for name in line if name.startswith("loss_")})
    return {
        "epoch": epoch + 1,
        "num_kept": trainer.schedule.num_kept(epoch),
        "stage": trainer.schedule.stage(epoch),
        "top1": _number(last.get("eval_top1")),
        "top5": _number(last.get("eval_top5")),
        "eval_loss": _number(last.get("eval_loss")),
        **{name: _mean(lines, name) for name in ["loss", *parts]},
        "learning_rate": _number(lines[-1].get("learning_rate")) if lines else None,
    }


def _best_step(trainer: "DistillationTrainer") -> int | None:
    """Return the step whose weights were taken up again at the end; None for a run that keeps its last ones."""
    return trainer.state.best_global_step if trainer.args.load_best_model_at_end and not trainer.is_in_train else None


def _accuracy(
    log: list[dict[str, float]], prefix: str, saved_step: int | None = None
) -> dict[str, dict[str, float]] | None:
    lines = [line for line in log if f"{prefix}_top1" in line]
    evaluations = [
        {"top1": line[f"{prefix}_top1"], "top5": line.get(f"{prefix}_top5"), "epoch": line["epoch"]} for line in lines
    ]
    if not evaluations:
        return None
    accuracy = {"last": evaluations[-1], "best": max(evaluations, key=lambda line: line["top1"])}
    saved = [evaluation for evaluation, line in zip(evaluations, lines, strict=True) if line["step"] == saved_step]
    return accuracy | {"saved": saved[-1]} if saved else accuracy


def _seconds_per_stage(trainer: "DistillationTrainer", trained: list[int]) -> list[dict[str, float]]:
    schedule, seconds = trainer.schedule, trainer.account.seconds
    stages = []
    for stage in sorted({schedule.stage(epoch) for epoch in trained}):
        epochs = [epoch for epoch in trained if schedule.stage(epoch) == stage]
        stages.append(
            {
                "stage": stage,
                "epochs": len(epochs),
                "num_kept": schedule.num_kept(epochs[0]),
                "seconds": sum(seconds[epoch] for epoch in epochs),
            }
        )
    return stages


def _mask_description(trainer: "DistillationTrainer") -> dict[str, Any] | None:
    """Describe the published mask a run was trained on; None for a run that was not."""
    mask = trainer.mask
    if mask is None:
        return None
    return {
        "num_kept": len(mask.kept),
        "num_mixed": int((mask.partner >= 0).sum()) if trainer.mask_mixing else 0,
        "stage": mask.stage,
        "provenance": mask.provenance,
    }


def _optimisation(args) -> dict[str, Any]:
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
    names = ("learning_rate", "lr_schedule", "lr_decay_epochs", "lr_decay_rate", "warmup_epochs")
    names += ("momentum", "nesterov", "weight_decay", "max_grad_norm")
    return {
        "optimiser": str(getattr(args.optim, "value", args.optim)),
        **{name: getattr(args, name) for name in names},
        "batch_size": args.train_batch_size * args.world_size * args.gradient_accumulation_steps,
        "precision": precision,
    }


def _machine(device: torch.device) -> dict[str, Any]:
    """Say what ran, without saying whose it is: no host name, no path."""
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {"device": device.type, "accelerator": accelerator, "cpu": cpu_name(), "cores": os.cpu_count()}


def cpu_name() -> str:
    """Name the processor, as well as the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _mean(lines: list[dict[str, float]], name: str) -> float | None:
    values = [line[name] for line in lines if name in line]
    return _number(sum(values) / len(values)) if values else None


def _number(value: float | None) -> float | None:
    # JSON knows no NaN and no infinity.
    return value if value is not None and math.isfinite(value) else None
