"""The first phase of a method (FitNet, FT, AB, FSP, SSKD, SLKD*): its own losses before the training proper."""

import torch
from torch import nn
from transformers.utils import logging

from ..methods import DistillationMethod, method_options
from .finite import FiniteCheck
from .shrinking_epochs import ShrinkingEpochsTrainer

logger = logging.get_logger(__name__)
_KNOB = "first_phase_learning_rate"


def describe_first_phase(method: DistillationMethod, num_batches: int) -> str:
    """Say in a sentence what the first phase of a method trains, and how long; `num_batches` are those of its epochs."""
    phase = method.first_phase
    who = "the student and the method's own weights" if phase.trains_student else "the method's own weights alone"
    return f"A first phase of {phase.epochs} epochs ({phase.epochs * num_batches:,} steps of SGD) trains {who}."


def run_first_phase(trainer: ShrinkingEpochsTrainer, model: nn.Module, train_dataloader) -> None:
    """Minimize the losses of a method's first phase, with an optimizer of its own; no value is recorded."""
    method, args, first_epoch = trainer.model.method, trainer.args, trainer.schedule.num_epochs
    phase, num_batches = method.first_phase, len(train_dataloader)
    trained = model if phase.trains_student else method
    parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    learning_rate = phase.learning_rate or args.learning_rate
    optimizer = torch.optim.SGD(
        parameters, learning_rate, momentum=args.momentum, nesterov=args.nesterov, weight_decay=args.weight_decay
    )
    optimizer = trainer.accelerator.prepare_optimizer(optimizer)
    logger.info(describe_first_phase(method, num_batches))
    finite = FiniteCheck(" of the first phase", _advice(method, learning_rate))
    model.train()
    with trainer.cost.first_phase(), trainer.model.first_phase():
        for epoch in range(phase.epochs):
            # These epochs are numbered after those of the training, so that both see different crops.
            trainer.begin_epoch(train_dataloader, first_epoch + epoch)
            train_dataloader.set_epoch(first_epoch + epoch)
            decays = sum(epoch >= decay_epoch for decay_epoch in phase.decay_epochs)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * 0.1**decays
            total = torch.zeros((), device=args.device)
            for step, batch in enumerate(train_dataloader):
                method.epoch = epoch + step / num_batches
                inputs = trainer._prepare_inputs(batch)
                loss = model(**inputs)["loss"]
                finite.note(epoch * num_batches + step, inputs["point_ids"], loss)
                trainer.backward(loss)
                if args.max_grad_norm:
                    trainer.accelerator.clip_grad_norm_(parameters, args.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
                trainer.cost.draw(len(inputs["point_ids"]) * args.world_size)
                total += loss.detach()
            finite.check()
            _log(trainer, epoch, learning_rate * 0.1**decays, total / num_batches)
    _check_weights(parameters, _advice(method, learning_rate))


def _log(trainer: ShrinkingEpochsTrainer, epoch: int, learning_rate: float, loss: torch.Tensor) -> None:
    if trainer.args.logging_strategy == "no":
        return
    mean = trainer.accelerator.reduce(loss, reduction="mean").item()
    # Not "loss" and "learning_rate": those are of the training, whose curves these must not enter.
    trainer.log({"first_phase_epoch": epoch + 1, "first_phase_loss": mean, "first_phase_learning_rate": learning_rate})


def _check_weights(parameters: list[nn.Parameter], advice: str) -> None:
    """Find what the last update broke; otherwise the training would be blamed for it."""
    if not bool(torch.stack([parameter.isfinite().all() for parameter in parameters]).all()):
        raise FloatingPointError(f"A weight is NaN or infinite after the first phase. {advice}, and train anew.")


def _advice(method: DistillationMethod, learning_rate: float) -> str:
    """Name the option that sets the learning rate of the first phase."""
    if method.first_phase.learning_rate is None:
        return f"Its learning rate is the training's: lower learning_rate ({learning_rate})"
    own = f"{_KNOB} of method_options" if _KNOB in method_options(method.name) else "learning_rate of its FirstPhase"
    return f"Lower {own} ({learning_rate})"
