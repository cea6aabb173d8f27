"""Stops a training after a whole checkpoint when a signal asks for it: Ctrl-C, SIGTERM or SIGHUP."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import Trainer, TrainerCallback

# A scheduler that takes its machine back sends SIGTERM; a closed terminal sends SIGHUP.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Processes learn of each other's signals every so many updates, because asking costs a round of messages.
_UPDATES_PER_QUESTION = 10


class TrainingStopped(Exception):
    """A signal stopped a training, and its checkpoint is complete."""


class _Stop(TrainerCallback):
    """Remembers a signal, asks for a checkpoint at the next update, and stops behind it."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.number: int | None = None
        self.stopping = False

    def receive(self, number: int, frame: object) -> None:
        if number == signal.SIGINT and self.number is not None:
            raise KeyboardInterrupt
        self.number = number
        name = signal.Signals(number).name
        again = " Press Ctrl-C again to stop at once." if number == signal.SIGINT else ""
        print(f"\n{name}: the training stops after its next checkpoint.{again}", file=sys.stderr, flush=True)

    def on_step_end(self, args, state, control, **kwargs):
        self.stopping = self.stopping or self._is_asked(state.global_step)
        # The evaluation at an epoch's end comes first.
        control.should_save |= self.stopping and not float(state.epoch).is_integer()

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_save |= self.stopping

    def on_save(self, args, state, control, **kwargs):
        if self.stopping:
            raise TrainingStopped(f"stopped after step {state.global_step} of {state.max_steps}")

    def _is_asked(self, step: int) -> bool:
        asked = self.number is not None
        accelerator = self.trainer.accelerator
        if accelerator.num_processes == 1:
            return asked
        if step % _UPDATES_PER_QUESTION:
            return False
        # All processes must save and stop at the same step.
        return bool(accelerator.reduce(torch.tensor(float(asked), device=accelerator.device)) > 0)


@contextmanager
def interruptible(trainer: Trainer) -> Iterator[None]:
    """Make a signal within the block stop the training of `trainer` with `TrainingStopped`, after a whole checkpoint.

    A second Ctrl-C is a KeyboardInterrupt at once.
    """
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread receives signals and may install handlers.
        yield
        return
    stop = _Stop(trainer)
    trainer.add_callback(stop)
    before = {number: signal.signal(number, stop.receive) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        trainer.remove_callback(stop)
