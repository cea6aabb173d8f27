"""Two processes train on soft labels; `soft_labels.rank<r>.safetensors` holds the rows drawn and the student."""

from pathlib import Path

import torch
from small_runs import config, digits, named, network

from hf_kcd import DistillationTrainer, KnowledgeDataset
from hf_kcd.artifacts.files import save_tensors
from hf_kcd.methods import register_method
from hf_kcd.methods.kd import KD
from hf_kcd.training.soft_labels import make_soft_labels

NUM_EPOCHS, NUM_VIEWS = 3, 2
KEPT = list(range(0, 120, 3))
ROWS: list[dict[str, torch.Tensor]] = []


@register_method("witness")
class Witness(KD):
    """KD that keeps what every step was given."""

    def forward(self, student, teacher, batch):
        rows = {name: batch[name].clone() for name in ("point_ids", "pixel_values")}
        rows |= {"teacher_logits": teacher.logits.clone(), "epoch": torch.full_like(batch["labels"], int(self.epoch))}
        ROWS.append(rows)
        return super().forward(student, teacher, batch)


def train_set() -> KnowledgeDataset:
    """Digits: every third is kept, and mixed with the next one."""
    dataset = digits(120)
    dataset.select(KEPT, [point + 1 for point in KEPT], [0.2] * len(KEPT))
    return dataset


def main(folder: Path, rank: int) -> None:
    options = {"method": "witness", "num_train_epochs": NUM_EPOCHS, "per_device_train_batch_size": 8}
    soft_labels = make_soft_labels(network("cifar_resnet20", 5), train_set(), NUM_VIEWS, bits=16)
    args = config(folder / "soft_labels", **options)
    trainer = DistillationTrainer(network("cifar_resnet8", 1), soft_labels, args, train_set())
    trainer.train()
    rows = {name: torch.cat([step[name] for step in ROWS]) for name in ROWS[0]}
    weights = named("student", dict(trainer.student.named_parameters()))
    save_tensors(folder / f"soft_labels.rank{rank}.safetensors", rows | weights)
