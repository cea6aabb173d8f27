"""An interrupt that the interpreter drops still ends the training, and the handler of before comes back."""

import signal

import pytest
from distillation_runs import Before, make_trainer

from hf_kcd.training.interruption import interruptible


class Dying:
    """Sends the signal while it is being destroyed, where Python prints exceptions and goes on."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)
        # The handler runs between two instructions of the interpreter: here.
        [None for _ in range(10)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_dropped_by_the_interpreter_stops_the_training(tmp_path):
    trainer = make_trainer(tmp_path, callbacks=[Before(2, Dying)], method="ce")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interruptible(trainer):
        trainer.train()
    assert trainer.state.global_step == 3
    assert signal.getsignal(signal.SIGINT) is before
