"""Learning rates as functions of epochs, so that shrinking epochs do not shift them."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import TrainingArguments, get_scheduler
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION
from transformers.trainer_utils import SchedulerType
from transformers.utils import logging

from ..condensation import CondensationSchedule
from ..errors import unknown_name

logger = logging.get_logger(__name__)

SCHEDULES = ("multistep", "cosine", "constant")
# These schedulers of transformers follow an evaluation's metric instead of time.
FOLLOW_METRIC = ("reduce_lr_on_plateau", "greedy")
# Arguments of transformers' functions that the trainer gives.
_GIVEN = ("optimizer", "num_warmup_steps", "num_training_steps", "last_epoch")


def learning_rate_factor(
    schedule: str, num_epochs: int, decay_epochs: Sequence[float], decay_rate: float, warmup_epochs: float
) -> Callable[[float], float]:
    """Return the factor on the base learning rate as a function of the epochs trained.

    "multistep" multiplies by `decay_rate` after each of `decay_epochs`, counted from 1 as in the papers; "cosine" is half a
    cosine from the end of the linear warm-up to 0 at `num_epochs`; "constant" stays.
    """
    if schedule not in SCHEDULES:
        raise unknown_name("learning rate schedule", schedule, SCHEDULES)
    if not 0 <= warmup_epochs < num_epochs:
        raise ValueError(f"warmup_epochs is {warmup_epochs}: give a number from 0 to below the {num_epochs} epochs.")
    decay_epochs = sorted(decay_epochs)
    if schedule == "multistep" and decay_epochs and not 0 < decay_epochs[0] <= decay_epochs[-1] < num_epochs:
        raise ValueError(
            f"lr_decay_epochs {decay_epochs} do not all lie inside the {num_epochs} epochs of training: give others, or leave "
            "them out to decay after 5/8, 6/8 and 7/8 of the training."
        )

    def factor(epoch: float) -> float:
        warm = min(1.0, epoch / warmup_epochs) if warmup_epochs else 1.0
        if schedule == "multistep":
            return warm * decay_rate ** sum(epoch >= decay for decay in decay_epochs)
        if schedule == "cosine":
            progress = max(0.0, epoch - warmup_epochs) / (num_epochs - warmup_epochs)
            return warm * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
        return warm

    return factor


def default_decay_epochs(num_epochs: int) -> list[float]:
    """Return the usual decay epochs, 150, 180 and 210 of 240, for another number of epochs."""
    return [num_epochs * eighths / 8 for eighths in (5, 6, 7)]


def create_lr_scheduler(
    args: TrainingArguments, schedule: CondensationSchedule, optimizer: torch.optim.Optimizer
) -> LRScheduler:
    """Create the scheduler of a training: one of `SCHEDULES`, or one of transformers stretched over the epochs."""
    total = schedule.total_updates
    if args.lr_scheduler_type is None:
        factor = args.learning_rate_factor()
        return LambdaLR(optimizer, lambda step: factor(schedule.epoch_at(min(step, total))))
    if args.lr_scheduler_type in FOLLOW_METRIC:
        return _of_transformers(args, optimizer)
    # LambdaLR multiplies the rate of each group by a function of time; only the time is another here.
    like = torch.optim.SGD([torch.zeros(1)], lr=optimizer.defaults["lr"])
    (factor,) = _of_transformers(args, like, warmup_steps(args, schedule), total).lr_lambdas
    return LambdaLR(optimizer, lambda step: factor(even_step(schedule, min(step, total))))


def even_step(schedule: CondensationSchedule, step: int) -> float:
    """Return the step at the same time in epochs if all epochs had equally many of the same total."""
    epoch, batches = schedule.locate(step)
    if epoch == schedule.num_epochs:
        return schedule.total_updates
    updates = schedule.updates(epoch)
    done = epoch * updates + batches // schedule.accumulation
    # One division of whole numbers, so that it is exact where the epochs are equally long.
    return done * schedule.total_updates / (updates * schedule.num_epochs)


def warmup_steps(args: TrainingArguments, schedule: CondensationSchedule) -> float:
    """Return `warmup_steps`, a number of updates or a share of the training, as steps of `even_step`.

    Raises:
        ValueError: When warm-up, or what `lr_scheduler_kwargs` add to it, is longer than the training.
    """
    total = schedule.total_updates
    if args.warmup_steps < 1:
        steps = args.get_warmup_steps(total)
    else:
        steps = even_step(schedule, min(int(args.warmup_steps), total))
    phases = [(args.lr_scheduler_kwargs or {}).get(name) or 0 for name in ("num_stable_steps", "num_decay_steps")]
    if steps >= total or steps + sum(phases) > total:
        given = f"warmup_steps is {args.warmup_steps} and lr_scheduler_kwargs is {args.lr_scheduler_kwargs}"
        raise ValueError(f"{given}, which is longer than the {total} steps of the training: give fewer steps.")
    return steps


def check_scheduler(args: TrainingArguments) -> None:
    """Refuse what a scheduler of transformers cannot use, before the number of steps is known."""
    name, given = args.lr_scheduler_type, args.lr_scheduler_kwargs
    if given is not None and not isinstance(given, dict):
        raise ValueError(f"lr_scheduler_kwargs is {given!r}: give a mapping, e.g. '{{\"num_cycles\": 2}}'.")
    if name is None:
        for option in ("warmup_steps", "lr_scheduler_kwargs"):
            if value := getattr(args, option):
                other = "warmup_epochs" if option == "warmup_steps" else "lr_decay_epochs and lr_decay_rate"
                raise ValueError(
                    f"{option} is {value}, but goes with lr_scheduler_type, which is not given. "
                    f"With lr_schedule={args.lr_schedule!r} use {other}."
                )
        return
    parameters = inspect.signature(TYPE_TO_SCHEDULER_FUNCTION[SchedulerType(name)]).parameters
    if args.warmup_steps and "num_warmup_steps" not in parameters:
        raise ValueError(f"warmup_steps is {args.warmup_steps}, but lr_scheduler_type={name!r} has no warm-up.")
    valid = [option for option in parameters if option not in _GIVEN]
    for option in given or {}:
        if "kwargs" not in valid and option not in valid:
            raise unknown_name(f"entry of lr_scheduler_kwargs for {name!r}", option, valid)
    try:
        scheduler = _of_transformers(args, torch.optim.SGD([torch.zeros(1)], lr=args.learning_rate), 1, 10**9)
        factors = [scheduler.lr_lambdas[0](step) for step in (0, 1, 2, 10**9)] if name not in FOLLOW_METRIC else []
        if not all(math.isfinite(factor) for factor in factors):
            raise ValueError("the learning rate is not finite")
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(
            f"lr_scheduler_type={name!r} does not work with lr_scheduler_kwargs={given}: {error}."
        ) from error


def check_steps(args: TrainingArguments, schedule: CondensationSchedule) -> None:
    """Refuse what the number of steps rules out, and warn of a `max_steps` that is never reached."""
    name, total = args.lr_scheduler_type, schedule.total_updates
    if name in FOLLOW_METRIC and args.eval_strategy == "no":
        raise ValueError(f"lr_scheduler_type={name!r} follows evaluations, but there are none: set eval_strategy.")
    if name is not None and name not in FOLLOW_METRIC:
        warmup_steps(args, schedule)
    if args.max_steps > total:
        epochs = "1 epoch has" if schedule.num_epochs == 1 else f"{schedule.num_epochs} epochs have"
        logger.warning(
            f"max_steps is {args.max_steps}, but {epochs} {total} steps: raise num_train_epochs to train longer."
        )


def _of_transformers(args: TrainingArguments, optimizer, num_warmup_steps=None, num_training_steps=None) -> Any:
    name, options = (
        str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        args.lr_scheduler_kwargs or {},
    )
    if name in FOLLOW_METRIC:
        # torch takes every metric for a loss.
        mode = "max" if args.greater_is_better else "min"
        if options.get("mode", mode) != mode:
            better = f"{args.metric_for_best_model} with greater_is_better={args.greater_is_better}"
            raise ValueError(f"mode is {options['mode']!r}, but the metric is {better}")
        options = {**options, "mode": mode}
    steps = {"num_warmup_steps": num_warmup_steps, "num_training_steps": num_training_steps}
    return get_scheduler(name, optimizer, **steps, scheduler_specific_kwargs=options)
