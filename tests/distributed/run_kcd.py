"""The process that tests of training under torchrun start: it trains scenarios and writes what each process saw.

    python -m torch.distributed.run --nproc-per-node 2 run_kcd.py <folder> <seconds> <scenario> [<scenario> ...]

Each process writes `<scenario>.rank<r>.json` and `<scenario>.rank<r>.safetensors`. A name that ends in `-resumed` takes the
scenario up from its checkpoint `RESUMED_FROM`.
"""

import faulthandler
import os
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import TrainerCallback

from hf_kcd import DistillationConfig, DistillationTrainer, KCDConfig, KCDTrainerCallback, KnowledgeDataset
from hf_kcd.artifacts.files import save_tensors, write_json
from hf_kcd.data import load_image_data
from hf_kcd.methods import Batch, DistillationMethod, FirstPhase, register_method
from hf_kcd.models import ModelOutputs, ModelSpec

NUM_EPOCHS = 12
EPOCHS_PER_STAGE = 4
NUM_EVAL_POINTS = 151
STUDENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("cifar_resnet8", {}),
    "dropout": ("resnet10t", {"channels": (8, 16, 32, 64), "stem_width": 8, "drop_rate": 0.2}),
    "no_batch_statistics": (
        "resnet10t",
        {"channels": (8, 16, 32, 64), "stem_width": 8, "norm_layer": "groupnorm1"},
    ),
}
CHECKPOINTS = {"save_strategy": "steps", "save_steps": 9, "save_total_limit": None}

# Name: points, student, options of the configuration, options of the condensation
SCENARIOS: dict[str, tuple[int, str, dict[str, Any], dict[str, Any]]] = {
    # 301, 110, 40 and 15 points: no epoch divides by a round of 32, and the last ones do not fill one batch.
    "uneven": (
        301,
        "plain",
        {"lr_schedule": "cosine", **CHECKPOINTS},
        {"final_ratio": 0.05},
    ),
    # 7, 4, 3 and 2 batches a process: most epochs end with an update from fewer batches than two.
    "accumulated": (
        203,
        "dropout",
        {"gradient_accumulation_steps": 2, **CHECKPOINTS},
        {"final_ratio": 0.2},
    ),
    "drop_last": (301, "plain", {"dataloader_drop_last": True}, {"final_ratio": 0.3}),
    "adapter": (203, "plain", {"method": "hint_with_adapter", "save_strategy": "epoch"}, {"final_ratio": 0.5}),
    "two_phases": (203, "plain", {"method": "hint_at_first"}, {"final_ratio": 0.5}),
    # 384, 320, 256 and 192 points: every epoch divides by the 64 of an update, so nothing is drawn twice.
    "even": (384, "no_batch_statistics", {"per_device_train_batch_size": 32}, {"final_ratio": 0.5, "shape": "linear"}),
    "even_accumulated": (
        384,
        "no_batch_statistics",
        {"gradient_accumulation_steps": 2},
        {"final_ratio": 0.5, "shape": "linear"},
    ),
}
# After one update of the two of epoch 5 (the first of the second stage), and of the two of epoch 3.
RESUMED_FROM = {"uneven": 27, "accumulated": 9}


@register_method("hint_with_adapter")
class HintWithAdapter(DistillationMethod):
    """A method that trains a layer of its own: a 1x1 convolution from the student's to the teacher's last feature."""

    student_reads = frozenset({"logits", "features"})
    teacher_reads = frozenset({"features"})

    def __init__(self, student: ModelSpec, teacher: ModelSpec, num_points: int) -> None:
        super().__init__(student, teacher, num_points)
        self.adapter = nn.Conv2d(student.feature_channels[-1], teacher.feature_channels[-1], 1)

    def forward(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        return {
            "ce": F.cross_entropy(student.logits, batch["labels"]),
            "hint": F.mse_loss(self.adapter(student.features[-1]), teacher.features[-1]),
        }


@register_method("hint_at_first")
class HintAtFirst(HintWithAdapter):
    """A method whose layer is trained in a first phase alone, which in turn leaves the student's classifier out."""

    first_phase = FirstPhase(epochs=1)

    def first_phase_losses(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        return {"hint": F.mse_loss(self.adapter(student.features[-1]), teacher.features[-1])}

    def forward(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        return {"ce": F.cross_entropy(student.logits, batch["labels"])}


class Witness(TrainerCallback):
    """Keeps what a process draws, batch by batch, and what it has selected, epoch by epoch."""

    def __init__(self) -> None:
        self.drawn: list[list[list[int]]] = []
        self.logits: list[list[Tensor]] = []
        self.selected: list[list[int]] = []

    def watch(self, trainer: DistillationTrainer) -> None:
        self.dataset = trainer.train_dataset
        trainer.model.register_forward_hook(self._note)

    def _note(self, model: nn.Module, inputs: tuple, outputs: Any) -> None:
        # Logits alone are an evaluation; before the first epoch there is a method's first phase, of which nothing counts.
        if isinstance(outputs, dict) and self.drawn:
            self.drawn[-1].append(outputs["point_ids"].tolist())
            self.logits[-1].append(outputs["student_logits"])

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.drawn.append([])
        self.logits.append([])
        self.selected.append(self.dataset.selected.tolist())


def train(name: str, folder: Path) -> None:
    """Train one scenario and write this process's result."""
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    scenario = name.removesuffix("-resumed")
    num_points, network, options, condensation = SCENARIOS[scenario]
    # A folder of its own for each process where it is asked who writes what.
    output_dir = folder / f"{name}-by-rank{rank}" if scenario == "adapter" else folder / name
    defaults = {
        "num_train_epochs": NUM_EPOCHS,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 16,
        "learning_rate": 0.05,
        "logging_steps": 5,
        "save_strategy": "no",
        "method_options": {"ce_weight": 1.0, "kd_weight": 0.1} if "method" not in options else None,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
    }
    if world_size > 1:
        defaults["ddp_backend"] = "gloo"
    options = {**defaults, **options}
    if name != scenario:
        options["save_strategy"] = "no"
    if world_size == 1:
        # One process draws in one batch what two draw in a round.
        options["per_device_train_batch_size"] *= 2
    args = DistillationConfig(str(output_dir), **options)

    data = load_image_data("digits")
    torch.manual_seed(5)
    teacher = timm.create_model("cifar_resnet20", num_classes=10, pretrained_cfg_overlay={"input_size": (3, 8, 8)})
    architecture, architecture_options = STUDENTS[network]
    student = timm.create_model(architecture, num_classes=10, **architecture_options)
    if network == "no_batch_statistics":
        # Training magnifies what rounding starts; in double precision two ways of summing stay together.
        student.double().register_forward_pre_hook(lambda module, arguments: (arguments[0].double(),))
    witness = Witness()
    trainer = DistillationTrainer(
        student,
        teacher,
        args,
        KnowledgeDataset(data.train.select(range(num_points)), data.preprocessing, seed=args.seed),
        KnowledgeDataset(data.eval.select(range(NUM_EVAL_POINTS)), data.preprocessing, training=False),
        callbacks=[KCDTrainerCallback(KCDConfig(epochs_per_stage=EPOCHS_PER_STAGE, **condensation)), witness],
    )
    witness.watch(trainer)
    resume = str(folder / scenario / f"checkpoint-{RESUMED_FROM[scenario]}") if name != scenario else None
    initial = {f"initial.{key}": value.clone() for key, value in trainer.method.state_dict().items()}
    trainer.train(resume_from_checkpoint=resume)
    learning_rate = trainer.lr_scheduler.get_last_lr()[0]
    metrics = trainer.evaluate()
    predictions = trainer.predict(trainer.eval_dataset)
    trainer.save_model(str(output_dir / "final"))

    # The epoch under way is the last one; folding it in shows how often each point was recorded in the whole training.
    trainer.kcd.condenser.record.merge()
    trainer.kcd.condenser.record.close_epoch()
    mask = trainer.knowledge_mask
    optimizer_state = trainer.optimizer.state_dict()["state"]
    save_tensors(
        folder / f"{name}.rank{rank}.safetensors",
        {
            **{f"student.{key}": value for key, value in trainer.student.state_dict().items()},
            **initial,
            **{f"method.{key}": value for key, value in trainer.method.state_dict().items()},
            **{f"momentum.{key}": state["momentum_buffer"] for key, state in optimizer_state.items()},
            **{f"mask.{key}": getattr(mask, key) for key in ("kept", "partner", "perturbation", "value", "frequency")},
            **{f"logits.{epoch}": torch.cat(batches) for epoch, batches in enumerate(witness.logits)},
            "record.value": trainer.kcd.condenser.record.value,
            "record.frequency": trainer.kcd.condenser.record.frequency,
        },
    )
    write_json(
        folder / f"{name}.rank{rank}.json",
        {
            "world_size": args.world_size,
            "steps": trainer.state.global_step,
            "max_steps": trainer.state.max_steps,
            "epoch": trainer.state.epoch,
            "learning_rate": learning_rate,
            "drawn": witness.drawn,
            "selected": witness.selected,
            "account": trainer.cost.points,
            "top1": metrics["eval_top1"],
            "predictions": predictions.predictions.tolist(),
            "labels": predictions.label_ids.tolist(),
        },
    )


if __name__ == "__main__":
    # A process that waits for another one for ever says where, and ends itself.
    faulthandler.dump_traceback_later(float(sys.argv[2]), exit=True)
    for argument in sys.argv[3:]:
        train(argument, Path(sys.argv[1]))
    # Under gloo the interpreter may abort on its way out, after everything has been done.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
