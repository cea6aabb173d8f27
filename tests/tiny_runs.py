"""Small runs for the tests of training and methods: data, networks, trainers, callbacks, and what a run ends with."""

import inspect
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import timm
import torch
from transformers import Trainer, TrainerCallback

import hf_kcd.models  # noqa: F401  (registers the networks)
from hf_kcd.data import KnowledgeDataset, Preprocessing
from hf_kcd.methods import register_method
from hf_kcd.methods.kd import KD
from hf_kcd.training import DistillationConfig, DistillationTrainer, KCDConfig, KCDTrainerCallback

NUM_POINTS, NUM_CLASSES, NUM_EPOCHS, BATCH = 88, 4, 6, 16
RECIPE = Preprocessing((0.5, 0.45, 0.4), (0.25, 0.2, 0.3), 8, "crop_flip", padding=1)
PAPER = KCDConfig(final_ratio=0.5, epochs_per_stage=2)
RELEASED = KCDConfig.released_code(final_ratio=0.5, epochs_per_stage=2)


def image_set(num_points: int = NUM_POINTS, num_classes: int = NUM_CLASSES, seed: int = 0) -> datasets.Dataset:
    """Noisy images whose mean color goes with the class, so that there is something to learn."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(num_classes, size=num_points)
    pixels = generator.integers(0, 150, size=(num_points, 8, 8, 3)) + 25 * labels[:, None, None, None]
    names = [f"c{i}" for i in range(num_classes)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_dict({"image": list(pixels.astype(np.uint8)), "label": labels}, features)


TRAIN, EVAL = image_set(), image_set(40, seed=1)


def network(seed: int = 1, name: str = "cifar_resnet8", **options) -> torch.nn.Module:
    """A network seeded on its own, configured for the images of these runs."""
    torch.manual_seed(seed)
    size = {"input_size": (3, RECIPE.size, RECIPE.size)}
    return timm.create_model(name, **{"num_classes": NUM_CLASSES, "pretrained_cfg_overlay": size, **options})


def dropout_network(seed: int = 1, rate: float = 0.2) -> torch.nn.Module:
    """A ViT of one block: no batch statistics; dropout draws random numbers in every step."""
    shape = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
    return network(seed, "vit_tiny_patch16_224", drop_rate=rate, proj_drop_rate=rate, **shape)


@register_method("spy")
class Spy(KD):
    """KD that keeps what every step was given."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.steps = []

    def forward(self, student, teacher, batch):
        seen = {name: batch[name].clone() for name in ("point_ids", "partner_ids", "perturbation", "labels")}
        seen |= {"pixel_values": batch["pixel_values"].clone(), "logits": student.logits.detach().clone()}
        seen |= {"teacher_logits": teacher.logits.clone(), "epoch": self.epoch}
        self.steps.append(seen)
        return super().forward(student, teacher, batch)

    def by_epoch(self, name: str) -> list[torch.Tensor]:
        """One tensor per epoch, the batches joined."""
        epochs = sorted({int(step["epoch"]) for step in self.steps})
        return [torch.cat([step[name] for step in self.steps if int(step["epoch"]) == e]) for e in epochs]


def config(out: Path, **options) -> DistillationConfig:
    defaults = {"num_train_epochs": NUM_EPOCHS, "learning_rate": 0.05, "save_strategy": "no", "seed": 3}
    defaults |= dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), BATCH)
    quiet = {"logging_steps": 1, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
    return DistillationConfig(str(out), **{**defaults, **quiet, **options})


def make_trainer(out: Path, kcd: KCDConfig | None = None, callbacks=(), **options) -> DistillationTrainer:
    """A trainer of fresh objects; `options` go to it, or else to its config."""
    own = set(inspect.signature(Trainer).parameters) | set(inspect.signature(DistillationTrainer).parameters)
    given = {name: options.pop(name) for name in own if name in options}
    if "train_dataset" not in given:
        given["train_dataset"] = KnowledgeDataset(TRAIN, RECIPE, seed=3)
    if options.get("method") != "ce":
        given.setdefault("teacher", network(9))
    given["model"] = network() if given.get("model") is None else given["model"]
    joined = [*callbacks, KCDTrainerCallback(kcd)] if kcd else list(callbacks)
    return DistillationTrainer(args=config(out, **options), callbacks=joined, **given)


def run_training(out: Path, *args, **options) -> DistillationTrainer:
    """Make a trainer, and let it train."""
    trainer = make_trainer(out, *args, **options)
    trainer.train()
    return trainer


class Interrupted(Exception):
    """The run was cut off."""


class SaveAt(TrainerCallback):
    """Write checkpoints after some steps; `then_stop` cuts the run off after the first of them, as a lost machine does."""

    def __init__(self, *steps: int, then_stop: bool = False) -> None:
        self.steps, self.then_stop = steps, then_stop

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = state.global_step in self.steps

    def on_save(self, args, state, control, **kwargs):
        if self.then_stop:
            raise Interrupted


class Before(TrainerCallback):
    """Do something before a step."""

    def __init__(self, step: int, action: Callable[[], object]) -> None:
        self.step, self.action = step, action

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.action()


class Watch(TrainerCallback):
    """Note steps, epochs, learning rates and selections as each update finds them."""

    def __init__(self) -> None:
        self.rates, self.epochs, self.ends, self.selected = [], [], [], []

    def on_step_begin(self, args, state, control, train_dataloader, **kwargs):
        if int(state.epoch or 0) == len(self.selected):
            self.selected.append(train_dataloader.dataset.selected)

    def on_pre_optimizer_step(self, args, state, control, optimizer, **kwargs):
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_step_end(self, args, state, control, **kwargs):
        self.epochs.append(state.epoch)

    def on_epoch_end(self, args, state, control, **kwargs):
        self.ends.append((state.global_step, state.epoch))


def outcome(trainer: DistillationTrainer) -> dict[str, torch.Tensor]:
    """All that must not depend on an interruption when a run ends, as tensors by name."""
    tensors = {f"student.{name}": tensor for name, tensor in trainer.student.state_dict().items()}
    tensors |= {f"method.{name}": tensor for name, tensor in trainer.method.state_dict().items()}
    for parameter, state in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{parameter}.{k}": v for k, v in state.items() if isinstance(v, torch.Tensor)}
    tensors["points"] = torch.tensor(trainer.cost.points)
    if trainer.kcd is not None:
        tensors |= {f"record.{name}": tensor for name, tensor in trainer.kcd.condenser.record.state_dict().items()}
        mask = trainer.knowledge_mask
        for name in ("kept", "partner", "perturbation", "value", "frequency"):
            tensors[f"mask.{name}"] = getattr(mask, name)
        for selection, entry in enumerate(mask.mixing_history):
            tensors |= {f"mixing.{selection}.{part}": tensor for part, tensor in enumerate(entry)}
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that are not equal to the bit."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def assert_same_end(one: DistillationTrainer, other: DistillationTrainer, when: object = "") -> None:
    assert not differing(outcome(one), outcome(other)), when


def losses(trainer: DistillationTrainer) -> list[dict]:
    """The lines of the log with a loss."""
    return [line for line in trainer.state.log_history if "loss" in line]
