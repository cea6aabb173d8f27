"""Two processes train every method; `<run>.rank<r>.safetensors` holds weights before and after, and losses."""

import tempfile
from pathlib import Path

import torch
from small_runs import config, digits, named, network
from torch import Tensor

from hf_kcd import DistillationTrainer, KCDConfig, KCDTrainerCallback
from hf_kcd.artifacts.files import save_tensors
from hf_kcd.methods import available_methods, method_options
from hf_kcd.methods.registry import get_method

# A term of weight 0 leaves its adapters without gradients.
RUNS = {name: (name, {}) for name in available_methods() if get_method(name).__module__.startswith("hf_kcd.")} | {
    f"{name} without its term": (name, {"weight": 0}) for name in ("cc", "fitnet", "vid")
}
RUNS["fitnet in two phases"] = ("fitnet", {"first_phase_epochs": 1})


def train(method: str, options: dict) -> dict[str, Tensor]:
    """Train shortly and return the weights before and after."""
    numbers = range(2 if get_method(method).many_teachers else 1)
    teachers = [network("cifar_resnet20", 5 + number) for number in numbers]
    if method_options(method).get("first_phase_epochs"):
        options = {**options, "first_phase_epochs": 1}
    with tempfile.TemporaryDirectory() as folder:
        args = config(folder, method=method, method_options=options, num_train_epochs=2, learning_rate=0.01)
        # A method's own weights are drawn differently on the processes: those of the first count.
        student = network("cifar_resnet8", 1)
        torch.manual_seed(100 + args.process_index)
        callback = KCDTrainerCallback(KCDConfig(final_ratio=0.5, epochs_per_stage=1))
        trainer = DistillationTrainer(student, teachers, args, digits(60), callbacks=[callback])
        before = named("before", dict(trainer.model.named_parameters()))
        trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return {**before, **named("after", dict(trainer.model.named_parameters())), "losses": torch.tensor(losses)}


def main(folder: Path, rank: int) -> None:
    for run, arguments in RUNS.items():
        save_tensors(folder / f"{run}.rank{rank}.safetensors", train(*arguments))
