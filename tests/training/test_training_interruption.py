"""An interrupt that the interpreter drops still ends the training, and the handler of before comes back."""

import signal

import pytest
import torch
from transformers import TrainerCallback

from hf_kcd import DistillationConfig, DistillationTrainer, KnowledgeDataset, load_model
from hf_kcd.data import load_image_data
from hf_kcd.training.interruption import interruptible


class PressesInsideADestructor(TrainerCallback):
    """Sends the signal while an object is being destroyed, where Python prints exceptions and goes on."""

    def on_step_begin(self, args, state, control, **kwargs):
        class Dying:
            def __del__(self):
                signal.raise_signal(signal.SIGINT)
                # The handler runs between two instructions of the interpreter: here.
                [None for _ in range(10)]

        if state.global_step == 2:
            Dying()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_dropped_by_the_interpreter_stops_the_training(tmp_path):
    data = load_image_data("digits")
    dataset = KnowledgeDataset(data.train.select(range(128)), data.preprocessing)
    args = DistillationConfig(
        str(tmp_path), method="ce", num_train_epochs=4, save_strategy="no", disable_tqdm=True, report_to="none"
    )
    torch.manual_seed(0)
    callbacks = [PressesInsideADestructor()]
    trainer = DistillationTrainer(load_model("cifar_resnet8", 10), None, args, dataset, callbacks=callbacks)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interruptible(trainer):
        trainer.train()
    assert trainer.state.global_step == 3
    assert signal.getsignal(signal.SIGINT) is before
