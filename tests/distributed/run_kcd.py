"""Two processes train under condensation; each writes `<scenario>.rank<r>.json` and a `.safetensors` beside it."""

import signal
from pathlib import Path
from typing import Any

import torch
from small_runs import config, digits, named, network
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import TrainerCallback

from hf_kcd import DistillationTrainer, KCDConfig, KCDTrainerCallback, KnowledgeDataset
from hf_kcd.artifacts.files import save_tensors, write_json
from hf_kcd.data import load_image_data
from hf_kcd.methods import Batch, DistillationMethod, FirstPhase, register_method
from hf_kcd.models import ModelOutputs, ModelSpec
from hf_kcd.training.interruption import TrainingStopped, interruptible

NUM_EPOCHS, EPOCHS_PER_STAGE, NUM_EVAL_POINTS = 6, 2, 151
THIN = {"channels": (8, 16, 32, 64), "stem_width": 8}
STUDENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("cifar_resnet8", {}),
    "dropout": ("resnet10t", {**THIN, "drop_rate": 0.2}),
    "no_batch_statistics": ("resnet10t", {**THIN, "norm_layer": "groupnorm1"}),
}
STEPS = {"save_strategy": "steps", "save_total_limit": None}
ACCUMULATED = {"gradient_accumulation_steps": 2}
# Name: points, student, options of the configuration, options of the condensation
SCENARIOS: dict[str, tuple[int, str, dict[str, Any], dict[str, Any]]] = {
    # 301, 110, 40 and 15 points: no epoch divides by a round of 32, and the last ones do not fill one batch.
    "uneven": (301, "plain", {"lr_schedule": "cosine", "save_steps": 19, **STEPS}, {"final_ratio": 0.05}),
    # 7, 4, 3 and 2 batches a process: most epochs end with an update from fewer batches than two.
    "accumulated": (203, "dropout", {**ACCUMULATED, "save_steps": 9, **STEPS}, {"final_ratio": 0.2}),
    "drop_last": (301, "plain", {"dataloader_drop_last": True}, {"final_ratio": 0.3}),
    "adapter": (203, "plain", {"method": "hint_with_adapter", "save_strategy": "epoch"}, {"final_ratio": 0.5}),
    "two_phases": (203, "plain", {"method": "hint_at_first"}, {"final_ratio": 0.5}),
    # 384, 320, 256 and 192 points: every epoch divides by the 64 of an update, so nothing is drawn twice.
    "even": (384, "no_batch_statistics", ACCUMULATED, {"final_ratio": 0.5, "shape": "linear"}),
}
# "<scenario>-resumed" starts here, within the first epoch of a stage: after one update of the two of epoch 3.
RESUMED_FROM = {name: given[2]["save_steps"] for name, given in SCENARIOS.items() if "save_steps" in given[2]}


@register_method("hint_with_adapter")
class HintWithAdapter(DistillationMethod):
    """A method with a trained layer: a 1x1 convolution from the student's to the teacher's last feature."""

    student_reads = frozenset({"logits", "features"})
    teacher_reads = frozenset({"features"})

    def __init__(self, student: ModelSpec, teacher: ModelSpec, num_points: int) -> None:
        super().__init__(student, teacher, num_points)
        self.adapter = nn.Conv2d(student.feature_channels[-1], teacher.feature_channels[-1], 1)

    def hint(self, student: ModelOutputs, teacher: ModelOutputs) -> dict[str, Tensor]:
        return {"hint": F.mse_loss(self.adapter(student.features[-1]), teacher.features[-1])}

    def forward(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        return {"ce": F.cross_entropy(student.logits, batch["labels"]), **self.hint(student, teacher)}


@register_method("hint_at_first")
class HintAtFirst(HintWithAdapter):
    """Its layer is trained in a first phase alone; that phase leaves the student's classifier out."""

    first_phase = FirstPhase(epochs=1)

    def first_phase_losses(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        return self.hint(student, teacher)

    def forward(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        return {"ce": F.cross_entropy(student.logits, batch["labels"])}


class Witness(TrainerCallback):
    """Keeps what a process draws, batch by batch, and what is selected, epoch by epoch."""

    def __init__(self) -> None:
        self.drawn, self.logits, self.selected = [], [], []

    def watch(self, trainer: DistillationTrainer) -> None:
        self.dataset = trainer.train_dataset
        trainer.model.register_forward_hook(self._note)

    def _note(self, model: nn.Module, inputs: tuple, outputs: Any) -> None:
        # Logits alone are an evaluation; nothing of a method's first phase counts.
        if isinstance(outputs, dict) and not model.in_first_phase:
            self.drawn[-1].append(outputs["point_ids"].tolist())
            self.logits[-1].append(outputs["student_logits"])

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.drawn.append([])
        self.logits.append([])
        self.selected.append(self.dataset.selected.tolist())


def train(name: str, folder: Path, rank: int, world_size: int) -> None:
    """Train one scenario and write this process's result."""
    scenario = name.removesuffix("-resumed")
    num_points, student_name, options, condensation = SCENARIOS[scenario]
    # A folder for each process where a test asks who writes what.
    output_dir = folder / f"{name}-by-rank{rank}" if scenario == "adapter" else folder / name
    defaults = {"num_train_epochs": NUM_EPOCHS, "learning_rate": 0.05, "logging_steps": 5}
    # One process draws in one batch what two draw in a round.
    defaults |= {"per_device_train_batch_size": 32 // world_size, "per_device_eval_batch_size": 16}
    if "method" not in options:
        defaults["method_options"] = {"ce_weight": 1.0, "kd_weight": 0.1}
    resume = str(folder / scenario / f"checkpoint-{RESUMED_FROM[scenario]}") if name != scenario else None
    options = {**defaults, **options}
    if resume:
        options = {name: value for name, value in options.items() if "save" not in name} | {"save_strategy": "no"}
    args = config(output_dir, **options)
    data = load_image_data("digits")
    architecture, architecture_options = STUDENTS[student_name]
    student = network(architecture, 5 + 70 * (resume is not None), **architecture_options)
    if student_name == "no_batch_statistics":
        # Training magnifies what rounding starts; in double precision two ways of summing stay together.
        student.double().register_forward_pre_hook(lambda module, arguments: (arguments[0].double(),))
    witness = Witness()
    evaluation = KnowledgeDataset(data.eval.select(range(NUM_EVAL_POINTS)), data.preprocessing, training=False)
    callbacks = [KCDTrainerCallback(KCDConfig(epochs_per_stage=EPOCHS_PER_STAGE, **condensation)), witness]
    teacher, points = network("cifar_resnet20", 5), digits(num_points)
    trainer = DistillationTrainer(student, teacher, args, points, evaluation, callbacks=callbacks)
    witness.watch(trainer)
    initial = named("initial", trainer.method.state_dict())
    trainer.train(resume_from_checkpoint=resume)
    learning_rate = trainer.lr_scheduler.get_last_lr()[0]
    metrics = trainer.evaluate()
    predictions = trainer.predict(trainer.eval_dataset)
    trainer.save_model(str(output_dir / "final"))

    # The last epoch is closed at the end of training, so the record shows how often each point was recorded in all.
    record, mask = trainer.kcd.condenser.record, trainer.knowledge_mask
    optimizer_state = trainer.optimizer.state_dict()["state"]
    tensors = {
        **initial,
        **named("student", trainer.student.state_dict()),
        **named("method", trainer.method.state_dict()),
        **{f"momentum.{key}": state["momentum_buffer"] for key, state in optimizer_state.items()},
        **{f"mask.{key}": getattr(mask, key) for key in ("kept", "partner", "perturbation", "value", "frequency")},
        **{f"logits.{epoch}": torch.cat(batches) for epoch, batches in enumerate(witness.logits)},
        **named("record", {"value": record.value, "frequency": record.frequency}),
    }
    save_tensors(folder / f"{name}.rank{rank}.safetensors", tensors)
    seen = {
        "world_size": args.world_size,
        **{name: getattr(trainer.state, name) for name in ("global_step", "max_steps", "epoch")},
        "learning_rate": learning_rate,
        **{"drawn": witness.drawn, "selected": witness.selected, "points": trainer.cost.points},
        "top1": metrics["eval_top1"],
        "logged": [[line["loss"], line["loss_ce"]] for line in trainer.state.log_history if "loss_ce" in line],
        "predictions": (-predictions.predictions).argsort(axis=1)[:, :5].tolist(),
        "labels": predictions.label_ids.tolist(),
    }
    write_json(folder / f"{name}.rank{rank}.json", seen)


class TerminateAt(TrainerCallback):
    """Sends SIGTERM to the own process after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            signal.raise_signal(signal.SIGTERM)


def stop(folder: Path, rank: int) -> None:
    """Train until the second process alone is told to end, and write where each one stopped."""
    callbacks = [KCDTrainerCallback(KCDConfig(epochs_per_stage=EPOCHS_PER_STAGE)), *[TerminateAt(13)] * rank]
    networks = network("cifar_resnet8", 5), network("cifar_resnet20", 5)
    args = config(folder / "stopped", num_train_epochs=NUM_EPOCHS, per_device_train_batch_size=16, save_strategy="no")
    trainer = DistillationTrainer(*networks, args, digits(203), callbacks=callbacks)
    try:
        with interruptible(trainer):
            trainer.train()
    except TrainingStopped:
        write_json(folder / f"stopped.rank{rank}.json", {"global_step": trainer.state.global_step})


def main(folder: Path, rank: int) -> None:
    stop(folder, rank)
    for name in (*SCENARIOS, *(f"{scenario}-resumed" for scenario in RESUMED_FROM)):
        train(name, folder, rank, world_size=2)
