"""Ctrl-C that is not lost: Python drops an interrupt that arrives inside one of its own callbacks."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from transformers import Trainer, TrainerCallback


class _Interruption(TrainerCallback):
    """Remembers Ctrl-C, and interrupts the training at its next step if it still runs."""

    def __init__(self) -> None:
        self.pressed = False

    def press(self, number: int, frame: object) -> None:
        self.pressed = True
        raise KeyboardInterrupt

    def on_step_end(self, args, state, control, **kwargs):
        if self.pressed:
            raise KeyboardInterrupt


@contextmanager
def interruptible(trainer: Trainer) -> Iterator[None]:
    """Make sure that Ctrl-C within the block stops the training of `trainer`."""
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread receives signals and may install handlers.
        yield
        return
    interruption = _Interruption()
    trainer.add_callback(interruption)
    before = signal.signal(signal.SIGINT, interruption.press)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        trainer.remove_callback(interruption)
