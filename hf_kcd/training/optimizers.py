"""Optimizers by name: transformers' and, as `timm:NAME`, those of timm's factory with its parameter groups."""

import ast
import re
from typing import Any

import timm.optim
import torch
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.training_args import OptimizerNames

from ..errors import unknown_name

TIMM = "timm:"
# The default learning rate is SGD's; with others it diverges.
_LIKE_SGD = ("sgd", "timm:sgd", "timm:momentum", "timm:sgdw", "timm:sgdp")
# What a step of these needs, and the trainer does not do.
_REFUSED = {
    "lomo": "updates weights during the backward pass",
    "galore": "is made for the linear layers of language models",
    "apollo": "is made for the linear layers of language models",
    "schedule_free": "evaluates other weights than it trains",
}
# What transformers reads of optim_args; it ignores the rest without a word.
_OPTIM_ARGS = {
    "sgd": ("momentum", "dampening", "nesterov"),
    "adagrad": ("lr_decay", "eps"),
    "rmsprop": ("momentum", "alpha", "eps", "centered"),
    "adamw_torch": (),
    "adamw_torch_fused": (),
    "adafactor": (),
}
_TIMM_GROUPS = ("layer_decay", "layer_decay_min_scale", "filter_bias_and_bn")


def check_optimizer_name(name: str) -> None:
    """Refuse an optimizer that does not exist, or cannot be used here."""
    of_timm = [f"{TIMM}{one}" for one in timm.optim.list_optimizers()]
    if name not in (valid := of_timm if name.startswith(TIMM) else [one.value for one in OptimizerNames]):
        raise unknown_name("optimizer", name, valid)
    for word, reason in _REFUSED.items():
        if word in name:
            raise ValueError(f"optim is {name!r}, which {reason}: choose another, such as 'sgd' or 'adamw_torch'.")
    if name in of_timm and timm.optim.get_optimizer_info(name.removeprefix(TIMM)).second_order:
        raise ValueError(f"optim is {name!r}, which needs second derivatives, and a step has none: choose another.")


def default_learning_rate(optim: str) -> float:
    """Return the learning rate of a configuration that names none; a ValueError for optimizers that it does not suit."""
    if optim in _LIKE_SGD:
        return 0.05
    raise ValueError(
        f"learning_rate is missing: the default, 0.05, is for SGD, and {optim} would diverge with it. Give one, for "
        "example learning_rate=1e-3."
    )


def check_optimizer_settings(args: TrainingArguments, first_phase: bool) -> None:
    """Refuse an optimizer that is not installed, and settings that it would ignore or not take.

    `first_phase` says whether the method trains a first phase, whose optimizer is SGD.
    """
    name, options = args.optim, _parse(args.optim_args)
    for option, field in (("weight_decay", "weight_decay"), ("lr", "learning_rate")):
        if option in options:
            raise ValueError(f"{option} in optim_args would be ignored: use the option {field}.")
    for option in options:
        if name in _OPTIM_ARGS and option not in _OPTIM_ARGS[name]:
            raise unknown_name(f"entry of optim_args for {name!r}", option, _OPTIM_ARGS[name])
    _check_settings(args, options, first_phase)
    # A layer without first weights, which would draw random numbers.
    model = nn.utils.skip_init(nn.Linear, 2, 2)
    try:
        if name.startswith(TIMM):
            _timm_optimizer(args, list(model.parameters()))
        else:
            optimizer_class, given = class_and_options(args, model)
            optimizer_class(given.pop("params", None) or model.parameters(), **given)
    except (TypeError, ValueError, ImportError, RuntimeError, AssertionError) as error:
        given = f" with optim_args={args.optim_args!r}" if args.optim_args else ""
        raise ValueError(f"optim={name!r}{given} does not work: {error}") from error


def class_and_options(args: TrainingArguments, model: nn.Module | None) -> tuple[Any, dict[str, Any]]:
    """Return transformers' optimizer class with its options, and our momentum for SGD."""
    optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
    if optimizer_class is torch.optim.SGD:
        options = {"momentum": args.momentum, "nesterov": args.nesterov, **options}
    return optimizer_class, options


def create_timm_optimizer(args: TrainingArguments, model: nn.Module) -> torch.optim.Optimizer:
    """Create an optimizer of timm for student and method, with timm's groups for weight decay and layer-wise rates."""
    options = _parse(args.optim_args)
    decay = {"weight_decay": args.weight_decay, "weight_decay_exclude_1d": options.get("filter_bias_and_bn", True)}
    student = {**decay, "no_weight_decay_list": getattr(model.student, "no_weight_decay", set)()}
    if "layer_decay" in options:
        scales = {"layer_decay": options["layer_decay"], "min_scale": options.get("layer_decay_min_scale", 0.0)}
        groups = timm.optim.param_groups_layer_decay(model.student, **student, **scales)
    else:
        groups = timm.optim.param_groups_weight_decay(model.student, **student)
    # Adapters, memories and networks of the method are no layers of the student: they learn at the full rate.
    groups += timm.optim.param_groups_weight_decay(model.method, **decay)
    # timm leaves lr_scale to its schedulers. The full rate comes first, because the log shows the first group's.
    groups = [{**group, "lr": args.learning_rate * group.pop("lr_scale", 1.0)} for group in groups if group["params"]]
    return _timm_optimizer(args, sorted(groups, key=lambda group: -group["lr"]))


def _timm_optimizer(args: TrainingArguments, params: list) -> torch.optim.Optimizer:
    name, options = args.optim.removeprefix(TIMM), _parse(args.optim_args)
    info = timm.optim.get_optimizer_info(name)
    if not 0 < options.get("layer_decay", 1) <= 1:
        raise ValueError(f"layer_decay is {options['layer_decay']}: give a factor above 0 and up to 1")
    own = {option: value for option, value in options.items() if option not in _TIMM_GROUPS}
    if not isinstance(options.get("filter_bias_and_bn", True), bool):
        raise ValueError(f"filter_bias_and_bn is {options['filter_bias_and_bn']!r}: give true or false")
    if "layer_decay_min_scale" in options and "layer_decay" not in options:
        raise ValueError("layer_decay_min_scale has an effect only with layer_decay: give that too")
    for option, takes in (("eps", info.has_eps), ("betas", info.has_betas), ("momentum", info.has_momentum)):
        if option in own and not takes:
            raise ValueError(f"it has no {option}")
    rates = {"lr": args.learning_rate, "weight_decay": args.weight_decay, "momentum": args.momentum}
    return timm.optim.create_optimizer_v2(params, name, **{**rates, **own})


def _check_settings(args: TrainingArguments, options: dict[str, Any], first_phase: bool) -> None:
    """Refuse settings of other optimizers, and settings that are given twice."""
    for option in ("momentum", "nesterov", "adam_beta1", "adam_beta2", "adam_epsilon"):
        value = getattr(args, option)
        if value == type(args).__dataclass_fields__[option].default:
            continue
        if option in options:
            raise ValueError(f"{option} is {value}, and optim_args is {args.optim_args!r}: give it once.")
        if not _reads(args.optim, option) and not (first_phase and not option.startswith("adam")):
            raise ValueError(
                f"{option} is {value}, which optim={args.optim!r} does not read: leave it out, or choose another "
                "optimizer; optim_args takes options of an optimizer's own."
            )


def _reads(name: str, option: str) -> bool:
    """Whether an optimizer reads a setting."""
    if name.startswith(TIMM):
        return option == "momentum" and timm.optim.get_optimizer_info(name.removeprefix(TIMM)).has_momentum
    if option in ("momentum", "nesterov"):
        return name == "sgd"
    return name.startswith("adamw_torch") or name not in _OPTIM_ARGS


def _parse(optim_args: str | None) -> dict[str, Any]:
    """Read "name=value" pairs, as transformers does, with Python's or YAML's values; a tuple may hold commas."""
    found = {}
    for pair in filter(None, re.split(r",(?![^(\[]*[)\]])", (optim_args or "").replace(" ", ""))):
        name, sign, value = pair.partition("=")
        if not (sign and name and value):
            raise ValueError(f"optim_args is {optim_args!r}: give name=value pairs, such as 'layer_decay=0.75'.")
        value = {"true": "True", "false": "False", "none": "None"}.get(value.lower(), value)
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found
