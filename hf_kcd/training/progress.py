"""Progress of a training: a bar on a terminal, and one line per epoch everywhere, also of a first phase."""

from collections.abc import Mapping
from typing import Any

from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback


class EpochLines(TrainerCallback):
    """Prints one line for each line of the log, together with the evaluation that follows it."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._line = ""

    def on_train_begin(self, args, state, control, **kwargs):
        if args.process_index == 0:
            # None shows the bar on a terminal only.
            self._bar = tqdm(total=state.max_steps, unit="step", leave=False, disable=args.disable_tqdm or None)

    def on_step_end(self, args, state, control, **kwargs):
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args, state, control, logs: Mapping[str, Any], **kwargs):
        if self._bar is None:
            return
        if "loss" in logs:
            self._flush()
            self._line = _training_line(logs, args.num_train_epochs)
            if args.eval_strategy == args.logging_strategy:
                return
        elif "first_phase_loss" in logs:
            self._line = _first_phase_line(logs, kwargs["model"].method.first_phase.epochs)
        elif keys := [key for key in logs if key.startswith("eval_") and key.endswith("_loss")]:
            self._line = self._line or _epoch(logs, args.num_train_epochs)
            # Several sets have a line each; networks that learned along come after the student, with longer names.
            self._line += _evaluated(logs, min(keys, key=len).removesuffix("_loss"))
        self._flush()

    def on_train_end(self, args, state, control, **kwargs):
        if self._bar is not None:
            self._flush()
            self._bar.close()

    def _flush(self) -> None:
        if self._line:
            tqdm.write(self._line)
        self._line = ""


class ImagesLine(TrainerCallback):
    """Prints one line when a training starts: what images were found, and how they are shown."""

    def on_train_begin(self, args, state, control, train_dataloader, **kwargs):
        if state.is_world_process_zero:
            tqdm.write(f"Training on {train_dataloader.dataset.describe()}")


def show_progress(trainer: Trainer, quiet: bool = False) -> None:
    """Replace the Trainer's own printing of its log, by nothing when quiet."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    if quiet:
        trainer.remove_callback(ImagesLine)
    else:
        trainer.add_callback(EpochLines())


def _epoch(logs: Mapping[str, Any], num_epochs: int) -> str:
    return f"epoch {logs['epoch']:>4.4g}/{num_epochs}"


def _evaluated(logs: Mapping[str, Any], prefix: str) -> str:
    name = prefix.removeprefix("eval").replace("_", " ", 1)
    top1 = logs.get(f"{prefix}_top1")
    return f"  loss{name} {logs[f'{prefix}_loss']:.3f}" if top1 is None else f"  top-1{name} {top1:6.2f} %"


def _first_phase_line(logs: Mapping[str, Any], num_epochs: int) -> str:
    epoch = f"first phase, epoch {logs['first_phase_epoch']:>2}/{num_epochs}"
    return f"{epoch}  loss {logs['first_phase_loss']:.3f}  lr {logs['first_phase_learning_rate']:.4g}"


def _training_line(logs: Mapping[str, Any], num_epochs: int) -> str:
    losses = {name.removeprefix("loss_"): value for name, value in logs.items() if name.startswith("loss_")}
    parts = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
    rest = f"lr {logs['learning_rate']:.4g}  kept {logs['kept']:6.1%}"
    return f"{_epoch(logs, num_epochs)}  loss {logs['loss']:.3f} ({parts})  {rest}"
