"""Collects the accuracy, cost and settings of a run into its results."""

import itertools
import json
import math
import os
import platform
from typing import Any

import torch
from transformers import Trainer

from ..artifacts.environment import cpu_name, library_versions
from ..artifacts.results import FORMAT_VERSION, TYPE, Results
from ..methods import method_options
from ..models import network_name
from .evaluation import NO_RESULT
from .metrics import metric_key

# Settings of `lr_schedule`.
_OF_SCHEDULE = ("lr_decay_epochs", "lr_decay_rate", "warmup_epochs")


def run_results(trainer: Trainer, *, data: str, command: str | None = None) -> Results:
    """Collect the results of a trainer that has trained, as plain JSON values.

    Cost is relative to training on all points in every epoch: `planned` by the schedule, `paid` by the points drawn. Losses
    are means over an epoch's log lines. Accuracy is in percent, None for a run that was never evaluated; it has "saved"
    beside "last" and "best" when the final weights are not the last epoch's. Of several evaluation sets, "accuracy" and the
    history are of the one that `metric_for_best_model` names, or else of the first. Seconds count training alone; a method's
    first phase is counted apart.
    """
    args, schedule, cost = trainer.args, trainer.schedule, trainer.cost
    log, best, evaluated = evaluations(trainer), _best_step(trainer), main_set(trainer)
    prefix = "eval" if evaluated is None else f"eval_{evaluated}"
    trained = [epoch for epoch in range(schedule.num_epochs) if cost.points[epoch]]
    if not trained:
        raise RuntimeError("There are no results yet: train() first.")
    history = [_epoch_history(trainer, epoch, log, prefix) for epoch in trained]
    results = {
        "type": TYPE,
        "format_version": FORMAT_VERSION,
        "student": network_name(trainer.student),
        # None also when the method does not read the teacher (a student alone, from a pair's recipe).
        "teacher": trainer.teacher_name if trainer.method.teacher_reads else None,
        "data": data,
        "method": args.method,
        "method_options": {**method_options(args.method), **args.method_options},
        "condensation": None if trainer.kcd is None else trainer.kcd.config.to_dict(),
        "mask": _mask_description(trainer),
        # The teacher's stored logits; None when the network itself was the teacher.
        "soft_labels": None if trainer.soft_labels is None else trainer.soft_labels.description(),
        "num_parameters": sum(parameter.numel() for parameter in trainer.student.parameters()),
        "num_points": cost.num_points,
        "num_epochs": schedule.num_epochs,
        "epochs_trained": trainer.state.epoch,
        "optimisation": _optimization(trainer),  # The key of format 1.
        "accuracy": _accuracy(log, prefix, best),
        # The name of the set of "accuracy", and all sets by name; None and empty where there is one without a name.
        "evaluation_set": evaluated,
        "evaluation_sets": {name: _accuracy(log, f"eval_{name}", best) for name in _set_names(trainer)},
        # Networks that learned along: their last weights are saved, which need not be their best.
        "networks": {name: _accuracy(log, f"{prefix}_{name}") for name in trainer.method.networks()},
        "cost": {
            "planned": schedule.absolute_cost / (cost.num_points * cost.num_epochs),
            "paid": cost.relative_cost,
            "points": sum(cost.points),
            # Points of a method's first phase, relative to the same whole training; not in `paid`. None without one.
            "first_phase": cost.first_phase_cost if cost.first_phase_points else None,
            # A method's step cost includes the teacher, which soft labels save.
            "step": trainer.method.step_cost if trainer.soft_labels is None else None,
        },
        "seconds": {
            "training": sum(cost.seconds),
            "first_phase": cost.first_phase_seconds if cost.first_phase_points else None,
            "per_stage": _seconds_per_stage(trainer, trained),
        },
        "seed": args.seed,
        "world_size": args.world_size,
        "versions": {"python": platform.python_version(), **library_versions()},
        "machine": _machine(args.device),
        "command": command,
        "history": {name: [epoch[name] for epoch in history] for name in history[0]},
    }
    # Options may hold tuples: return what a reader of the file gets.
    return json.loads(json.dumps(results, allow_nan=False))


def main_set(trainer: Trainer) -> str | None:
    """Return the evaluation set that chooses the best model, or else the first of several; None for a single one."""
    names = _set_names(trainer)
    chosen = metric_key(trainer.args.metric_for_best_model) or ""
    return next(
        (name for name in sorted(names, key=len, reverse=True) if chosen.startswith(f"eval_{name}_")), None
    ) or (names[0] if names else None)


def _set_names(trainer: Trainer) -> list[str]:
    return list(trainer.eval_dataset) if isinstance(trainer.eval_dataset, dict) else []


def evaluations(trainer: Trainer) -> list[dict[str, float]]:
    """Return the lines of the log, without evaluations on other sets than the trainer's own, or of an earlier epoch's weights."""
    return [line for line in trainer.state.log_history if NO_RESULT not in line]


def _epoch_history(trainer: Trainer, epoch: int, log: list[dict[str, float]], prefix: str) -> dict[str, float | None]:
    # The log counts finished epochs: 3.0 is the end of epoch 2.
    lines = [line for line in log if "loss" in line and epoch < line["epoch"] <= epoch + 1]
    evaluated = [line for line in log if f"{prefix}_loss" in line and epoch < line["epoch"] <= epoch + 1]
    last = evaluated[-1] if evaluated else {}
    parts = sorted({name for line in log for name in line if name.startswith("loss_")})
    return {
        "epoch": epoch + 1,
        "num_kept": trainer.schedule.num_kept(epoch),
        "stage": trainer.schedule.stage(epoch),
        "top1": _number(last.get(f"{prefix}_top1")),
        "top5": _number(last.get(f"{prefix}_top5")),
        "eval_loss": _number(last.get(f"{prefix}_loss")),
        **{name: _mean(lines, name) for name in ["loss", *parts]},
        "learning_rate": _number(lines[-1].get("learning_rate")) if lines else None,
    }


def _best_step(trainer: Trainer) -> int | None:
    """Return the step whose weights were loaded at the end; None for a run that keeps its last weights."""
    return trainer.state.best_global_step if trainer.args.load_best_model_at_end and not trainer.is_in_train else None


def _accuracy(log: list[dict[str, float]], prefix: str, saved_step: int | None = None) -> dict[str, Any] | None:
    top1, top5 = f"{prefix}_top1", f"{prefix}_top5"
    lines = [line for line in log if top1 in line]
    values = [{"top1": line[top1], "top5": line.get(top5), "epoch": line["epoch"]} for line in lines]
    if not values:
        return None
    accuracy = {"last": values[-1], "best": max(values, key=lambda line: line["top1"])}
    saved = [value for value, line in zip(values, lines, strict=True) if line["step"] == saved_step]
    return accuracy | {"saved": saved[-1]} if saved else accuracy


def _seconds_per_stage(trainer: Trainer, trained: list[int]) -> list[dict[str, float]]:
    stages = []
    for stage, group in itertools.groupby(trained, trainer.schedule.stage):
        epochs = list(group)
        seconds = sum(trainer.cost.seconds[epoch] for epoch in epochs)
        num_kept = trainer.schedule.num_kept(epochs[0])
        stages.append({"stage": stage, "epochs": len(epochs), "num_kept": num_kept, "seconds": seconds})
    return stages


def _mask_description(trainer: Trainer) -> dict[str, Any] | None:
    """Describe the published mask that the run was trained on; None without one."""
    mask = trainer.mask
    if mask is None:
        return None
    num_mixed = int((mask.partner >= 0).sum()) if trainer.mask_mixing else 0
    return {"num_kept": len(mask.kept), "num_mixed": num_mixed, "stage": mask.stage, "provenance": mask.provenance}


def optimization(args) -> dict[str, Any]:
    """Describe how a run with these arguments is to update its weights."""
    names = ("learning_rate", "lr_decay_epochs", "lr_decay_rate", "warmup_epochs", "momentum", "nesterov")
    return {
        "optimiser": args.optim,
        "lr_schedule": args.lr_scheduler_type or args.lr_schedule,
        **{name: getattr(args, name) for name in (*names, "weight_decay", "max_grad_norm")},
        "batch_size": args.train_batch_size * args.world_size * args.gradient_accumulation_steps,
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        **{name: getattr(args, name) for name in ("optim_args", "warmup_steps", "lr_scheduler_kwargs")},
    }


def _optimization(trainer: Trainer) -> dict[str, Any]:
    """Describe what was computed: settings that the optimizer or the schedule did not read are None."""
    args, group = trainer.args, trainer.optimizer.param_groups[0]
    own = trainer.optimizer_name is None
    found = {
        "optimiser": type(trainer.optimizer.optimizer).__name__ if own else trainer.optimizer_name,
        "learning_rate": trainer.optimizer.defaults["lr"] if own else args.learning_rate,
        **{name: getattr(args, name) for name in ("lr_schedule", "lr_decay_epochs", "lr_decay_rate", "warmup_epochs")},
        "momentum": group.get("momentum"),
        "nesterov": group.get("nesterov"),
        "weight_decay": group.get("weight_decay") if own else args.weight_decay,
        "max_grad_norm": args.max_grad_norm,
        "batch_size": args.train_batch_size * args.world_size * args.gradient_accumulation_steps,
        "precision": {"no": "fp32"}.get(trainer.accelerator.mixed_precision, trainer.accelerator.mixed_precision),
    }
    if not own and args.optim_args:
        found["optim_args"] = args.optim_args
    if not trainer._created_lr_scheduler:
        return {**found, "lr_schedule": type(trainer.lr_scheduler).__name__, **dict.fromkeys(_OF_SCHEDULE)}
    if args.lr_scheduler_type is not None:
        found |= {"lr_schedule": args.lr_scheduler_type, **dict.fromkeys(_OF_SCHEDULE)}
        return {**found, "warmup_steps": args.warmup_steps, "lr_scheduler_kwargs": args.lr_scheduler_kwargs}
    return found if args.lr_schedule == "multistep" else {**found, "lr_decay_rate": None}


def _machine(device: torch.device) -> dict[str, Any]:
    """Describe the machine without its owner: no host name, no path."""
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {"device": device.type, "accelerator": accelerator, "cpu": cpu_name(), "cores": os.cpu_count()}


def _mean(lines: list[dict[str, float]], name: str) -> float | None:
    values = [line[name] for line in lines if name in line]
    return _number(sum(values) / len(values)) if values else None


def _number(value: float | None) -> float | None:
    # JSON has no NaN and no infinity.
    return value if value is not None and math.isfinite(value) else None
