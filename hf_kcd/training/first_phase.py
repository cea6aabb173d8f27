"""The first phase of a method (FitNet, FT, AB, FSP, SSKD, SLKD*): its own losses before the training proper."""

import torch
from torch import nn

from .shrinking_epochs import ShrinkingEpochsTrainer


def run_first_phase(trainer: ShrinkingEpochsTrainer, model: nn.Module, train_dataloader) -> None:
    """Minimize the losses of a method's first phase, with an optimizer of its own; no value is recorded."""
    method, args, first_epoch = trainer.model.method, trainer.args, trainer.schedule.num_epochs
    phase = method.first_phase
    trained = model if phase.trains_student else method
    learning_rate = phase.learning_rate or args.learning_rate
    optimizer = torch.optim.SGD(
        [parameter for parameter in trained.parameters() if parameter.requires_grad],
        lr=learning_rate,
        momentum=args.momentum,
        nesterov=args.nesterov,
        weight_decay=args.weight_decay,
    )
    optimizer = trainer.accelerator.prepare_optimizer(optimizer)
    model.train()
    trainer.model.in_first_phase = True
    for epoch in range(phase.epochs):
        # These epochs are numbered after those of the training, so that both see different crops.
        trainer.begin_epoch(train_dataloader, first_epoch + epoch)
        train_dataloader.set_epoch(first_epoch + epoch)
        decays = sum(epoch >= decay_epoch for decay_epoch in phase.decay_epochs)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * 0.1**decays
        for step, batch in enumerate(train_dataloader):
            method.epoch = epoch + step / len(train_dataloader)
            trainer.backward(model(**trainer._prepare_inputs(batch))["loss"])
            optimizer.step()
            optimizer.zero_grad()
    trainer.model.in_first_phase = False
