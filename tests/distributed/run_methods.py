"""The process that the test of all methods starts, once per rank: two condensed epochs with each of them.

    RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=... python run_methods.py <folder> <seconds>

It writes `<run>.rank<r>.safetensors`: the weights of student and method before and after, and the losses.
"""

import faulthandler
import os
import sys
import tempfile
from pathlib import Path

import timm
import torch
from torch import Tensor

from hf_kcd import DistillationConfig, DistillationTrainer, KCDConfig, KCDTrainerCallback, KnowledgeDataset
from hf_kcd.artifacts.files import save_tensors
from hf_kcd.data import load_image_data
from hf_kcd.methods import available_methods, method_options
from hf_kcd.methods.registry import get_method

# A term of weight 0 leaves its adapters without gradients.
RUNS = {name: (name, {}) for name in available_methods() if get_method(name).__module__.startswith("hf_kcd.")} | {
    f"{name} without its term": (name, {"weight": 0}) for name in ("cc", "fitnet", "vid")
}
RUNS["fitnet in two phases"] = ("fitnet", {"first_phase_epochs": 1})


def network(name: str, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return timm.create_model(name, num_classes=10, pretrained_cfg_overlay={"input_size": (3, 8, 8)})


def train(method: str, options: dict, data) -> dict[str, Tensor]:
    """Train shortly and say what the weights were and what they became."""
    teachers = [
        network("cifar_resnet20", 5 + number) for number in range(2 if get_method(method).many_teachers else 1)
    ]
    if method_options(method).get("first_phase_epochs"):
        options = {**options, "first_phase_epochs": 1}
    with tempfile.TemporaryDirectory() as folder:
        args = DistillationConfig(
            folder,
            method=method,
            method_options=options,
            num_train_epochs=2,
            per_device_train_batch_size=16,
            learning_rate=0.01,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            ddp_backend="gloo",
        )
        # What a method draws for its own weights differs between the processes: those of the first count.
        student = network("cifar_resnet8", 1)
        torch.manual_seed(100 + args.process_index)
        trainer = DistillationTrainer(
            student,
            teachers,
            args,
            KnowledgeDataset(data, seed=args.seed),
            callbacks=[KCDTrainerCallback(KCDConfig(final_ratio=0.5, epochs_per_stage=1))],
        )
        before = {f"before.{name}": weight.detach().clone() for name, weight in trainer.model.named_parameters()}
        trainer.train()
    after = {f"after.{name}": weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return {**before, **after, "losses": torch.tensor(losses)}


if __name__ == "__main__":
    # A process that waits for another one for ever says where, and ends itself.
    faulthandler.dump_traceback_later(float(sys.argv[2]), exit=True)
    points = load_image_data("digits").train.select(range(60))
    for run, (method, options) in RUNS.items():
        save_tensors(Path(sys.argv[1]) / f"{run}.rank{os.environ['RANK']}.safetensors", train(method, options, points))
    # Under gloo the interpreter may abort on its way out, after everything has been done.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
