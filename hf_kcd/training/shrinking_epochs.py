"""`ShrinkingEpochsTrainer`: a Trainer whose epochs get shorter as a schedule says."""

import torch
from torch import nn
from transformers import Trainer

from ..condensation import CondensationSchedule
from .cost import CostTracker
from .optimizers import TIMM, create_timm_optimizer
from .schedules import create_lr_scheduler


class ShrinkingEpochsTrainer(Trainer):
    """`transformers.Trainer` for a data set whose number of points follows a schedule.

    transformers reads the number of steps per epoch once, before training. Here the number of steps, the epoch
    fraction, the position after a resume and the learning rate follow the schedule.
    """

    schedule: CondensationSchedule  # With its batches known.
    cost: CostTracker
    # Name of the optimizer that the trainer made; None for one of the user's.
    optimizer_name: str | None = None

    def set_initial_training_values(self, args, dataloader):
        _, _, num_examples, _, total_batch_size, _, _ = super().set_initial_training_values(args, dataloader)
        schedule = self.schedule
        total_updates = schedule.total_updates
        max_steps = min(args.max_steps, total_updates) if args.max_steps > 0 else total_updates
        return (
            schedule.num_epochs,
            schedule.updates(0),
            num_examples,
            # Rates such as train_samples_per_second are computed from it.
            self._points_until(max_steps),
            total_batch_size,
            schedule.batches(0),
            max_steps,
        )

    def _points_until(self, step: int) -> int:
        """Return how many points are drawn up to a step."""
        schedule, (epoch, batches) = self.schedule, self.schedule.locate(step)
        round_size = schedule.batch_size * schedule.world_size
        whole = sum(min(schedule.num_kept(one), schedule.batches(one) * round_size) for one in range(epoch))
        return whole + batches * round_size

    def _init_training_state(
        self, max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
    ):
        position = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        self.cost = CostTracker(self.cost.num_points, self.schedule.num_epochs)
        if resume_from_checkpoint is None:
            return position
        self.cost.load(resume_from_checkpoint)
        return self.schedule.locate(self.state.global_step)

    def _run_epoch(self, model, epoch, train_dataloader, steps_in_epoch, num_update_steps_per_epoch, **kwargs):
        schedule = self.schedule
        if len(train_dataloader) != schedule.batches(epoch):
            raise RuntimeError(
                f"The loader has {len(train_dataloader)} batches and the schedule {schedule.batches(epoch)}: leave "
                "split_batches, dispatch_batches and even_batches of accelerator_config at their defaults."
            )
        self.begin_epoch(train_dataloader, epoch)
        # A student that came in eval mode, or was put there between two epochs, would keep its batch statistics.
        model.train()
        self.cost.begin(epoch)
        super()._run_epoch(
            model=model,
            epoch=epoch,
            train_dataloader=train_dataloader,
            steps_in_epoch=schedule.batches(epoch),
            num_update_steps_per_epoch=schedule.updates(epoch),
            **kwargs,
        )
        self.cost.stop()

    def begin_epoch(self, train_dataloader, epoch: int) -> None:
        """Seed augmentation and workers for an epoch."""
        self.train_dataset.set_epoch(epoch)
        # A loader draws one seed per iterator, and persistent workers need fewer: a shared generator would notice.
        train_dataloader.base_dataloader.generator = torch.Generator().manual_seed(self.args.seed * 2**20 + epoch)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None and self.optimizer_cls_and_kwargs is None:
            self.optimizer_name = self.args.optim
            if self.args.optim.startswith(TIMM):
                self.optimizer = create_timm_optimizer(self.args, self.model)
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        if self.lr_scheduler is None:
            self.lr_scheduler = create_lr_scheduler(self.args, self.schedule, optimizer or self.optimizer)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def backward(self, loss: torch.Tensor) -> None:
        """Compute gradients of a loss that is already divided by the accumulated batches."""
        # accelerate divides by the accumulation it was told: the true one under transformers 5.3, and 1 later.
        self.accelerator.backward(loss * self.accelerator.gradient_accumulation_steps)

    def floating_point_ops(self, inputs: dict) -> int:
        return 0

    def _get_grad_norm(self, model: nn.Module, grad_norm=None):
        if grad_norm is None and not self.args.log_grad_norm:
            return None
        return super()._get_grad_norm(model, grad_norm=grad_norm)
