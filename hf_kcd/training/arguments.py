"""Checks the arguments of a `DistillationTrainer` that transformers.Trainer has too, before anything is built."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ..data import SoftLabels, collate

Network = nn.Module | str | os.PathLike
Teacher = Network | Sequence[Network] | SoftLabels | None
Optimizers = tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LRScheduler | None]
OptimizerClass = tuple[type[torch.optim.Optimizer], dict[str, Any]]

_WRAPPED = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def check_functions(data_collator: Callable | None, compute_loss_func: Callable | None) -> None:
    """Refuse functions of transformers.Trainer that would never be called."""
    if data_collator is not None and data_collator is not collate:
        advice = "leave it out, and choose how images are prepared with a Preprocessing"
        raise ValueError(f"data_collator is not taken: batches come ready from KnowledgeDataset: {advice}.")
    if compute_loss_func is not None:
        advice = "register a DistillationMethod, or choose options of the method with method_options"
        raise ValueError(f"compute_loss_func is not taken: the method computes the loss: {advice}.")


def check_model(student: Network | None, teacher: Teacher, model_init: Callable | None) -> None:
    """Require one source of the student, and networks that a method can read."""
    if (student is None) == (model_init is None):
        given = "both" if model_init is not None else "neither"
        raise ValueError(f"Give the student as model, or a function that makes it as model_init; {given} came.")
    if model_init is not None and not callable(model_init):
        raise TypeError(f"model_init is a {type(model_init).__name__}: give a function that returns a student.")
    if student is not None:
        check_student(student)
    if isinstance(teacher, SoftLabels | None):
        return
    for one in teacher if isinstance(teacher, list | tuple) else [teacher]:
        _check_network("teacher", one)


def check_student(student: Any) -> None:
    """Refuse what is not a timm network, with the way to one, and forms of one whose weights cannot be saved as its own."""
    _check_network("model", student)
    if hasattr(student, "_orig_mod"):
        raise ValueError("model is compiled: give its _orig_mod, and set torch_compile=True to compile the training.")
    if isinstance(student, nn.Module) and _is_quantized(student):
        raise ValueError(
            "model is quantized, and its weights cannot be trained: give it unquantized, quantize it after."
        )


def check_optimizers(
    optimizers: Optimizers, cls_and_kwargs: OptimizerClass | None, model_init: Callable | None
) -> None:
    """Refuse optimizers and schedulers that would not be used, or not train."""
    if not isinstance(optimizers, tuple | list) or len(optimizers) != 2:
        raise TypeError(f"optimizers is {_kind(optimizers)}: give a pair (optimizer, scheduler), None for either.")
    optimizer, scheduler = optimizers
    if not isinstance(optimizer, torch.optim.Optimizer | None):
        raise TypeError(f"optimizers has {_kind(optimizer)} in the place of a torch.optim.Optimizer.")
    if scheduler is not None:
        if not hasattr(scheduler, "get_last_lr"):
            advice = "give one of torch.optim.lr_scheduler, which is stepped after every update"
            raise TypeError(f"optimizers has {_kind(scheduler)} in the place of a scheduler: {advice}.")
        if optimizer is None or getattr(scheduler, "optimizer", optimizer) is not optimizer:
            raise ValueError("optimizers has a scheduler of another optimizer: give the pair that belongs together.")
    if optimizer is not None and cls_and_kwargs is not None:
        raise ValueError("optimizers and optimizer_cls_and_kwargs both say how to train: leave out one of them.")
    if optimizer is not None and model_init is not None:
        advice = "pass optimizer_cls_and_kwargs instead"
        raise ValueError(f"optimizers is not taken with model_init: a new student has other weights: {advice}.")
    if cls_and_kwargs is not None:
        pair = isinstance(cls_and_kwargs, tuple | list) and len(cls_and_kwargs) == 2
        if not pair or not callable(cls_and_kwargs[0]) or not isinstance(cls_and_kwargs[1], dict):
            fault = f"optimizer_cls_and_kwargs is {_kind(cls_and_kwargs)}"
            raise TypeError(f"{fault}: give a class and its arguments, such as (torch.optim.AdamW, {{'lr': 1e-3}}).")


def check_optimizer(optimizer: torch.optim.Optimizer | None, student: nn.Module, method: nn.Module) -> None:
    """Refuse an optimizer of the user without weights of the student, or without some that a method trains."""
    if optimizer is None:
        return
    held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    if not any(id(weight) in held for weight in student.parameters() if weight.requires_grad):
        raise ValueError(
            "The optimizer has no weights of the student, or of another copy: make it from model.parameters()."
        )
    missing = [name for name, weight in method.named_parameters() if weight.requires_grad and id(weight) not in held]
    if missing:
        fault = f"The optimizer leaves out weights that the method trains ({', '.join(missing[:3])})"
        raise ValueError(f"{fault}: set optim, or pass optimizer_cls_and_kwargs, so that it gets them too.")


def _check_network(role: str, network: Any) -> None:
    if isinstance(network, str | os.PathLike):
        return
    if not isinstance(network, nn.Module):
        advice = "a list of networks, SoftLabels, " if role == "teacher" else ""
        raise TypeError(
            f"{role} is {_kind(network)}: give a timm network, its name, {advice}and name other arguments (args=...)."
        )
    if isinstance(network, _WRAPPED):
        raise ValueError(f"{role} is wrapped in {type(network).__name__}: give its module, and launch with torchrun.")
    homes = {cls.__module__.partition(".")[0] for cls in type(network).__mro__}
    if "peft" in homes:
        advice = "merge its adapters with merge_and_unload(), and give the timm network below"
    elif hasattr(network, "timm_model"):
        advice = "give its timm_model"
    elif "transformers" in homes:
        advice = "give the network of that architecture in timm (timm.list_models('*vit*', pretrained=True))"
    elif "torchvision" in homes:
        advice = "timm has its networks and weights, such as timm.create_model('resnet18.tv_in1k', pretrained=True)"
    elif getattr(network, "pretrained_cfg", None):
        return
    else:
        advice = "register it with timm.models.register_model, and make it with hf_kcd.load_model"
    raise ValueError(f"{role} is {_kind(network)}, which is not a timm network: {advice}.")


def _is_quantized(network: nn.Module) -> bool:
    homes = ".".join(type(module).__module__ for module in network.modules())
    return any(word in homes for word in ("quantized", "bitsandbytes", "torchao"))


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
