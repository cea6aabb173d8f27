"""The process that the test of soft labels under torchrun starts: it trains on them and writes what it was shown.

    RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=... python run_soft_labels.py <folder> <seconds>

It writes `rank<r>.safetensors`: every row that this process drew, with its epoch, and the student's weights at the end.
"""

import faulthandler
import os
import sys
from pathlib import Path

import timm
import torch

from hf_kcd import DistillationConfig, DistillationTrainer, KnowledgeDataset
from hf_kcd.artifacts.files import save_tensors
from hf_kcd.data import load_image_data
from hf_kcd.methods import register_method
from hf_kcd.methods.kd import KD
from hf_kcd.training.soft_labels import make_soft_labels

NUM_EPOCHS, NUM_VIEWS = 3, 2
KEPT = list(range(0, 120, 3))


@register_method("witness")
class Witness(KD):
    """KD that keeps what every step was given."""

    def forward(self, student, teacher, batch):
        rows = {name: batch[name].clone() for name in ("point_ids", "pixel_values")}
        rows |= {"teacher_logits": teacher.logits.clone(), "epoch": torch.full_like(batch["labels"], int(self.epoch))}
        ROWS.append(rows)
        return super().forward(student, teacher, batch)


ROWS: list[dict[str, torch.Tensor]] = []


def network(name: str, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return timm.create_model(name, num_classes=10, pretrained_cfg_overlay={"input_size": (3, 8, 8)})


def train_set() -> KnowledgeDataset:
    """Digits of which every third is kept, some of them mixed."""
    data = load_image_data("digits")
    dataset = KnowledgeDataset(data.train.select(range(120)), data.preprocessing, seed=3)
    dataset.select(KEPT, [point + 1 for point in KEPT], [0.2] * len(KEPT))
    return dataset


def main(folder: Path) -> None:
    args = DistillationConfig(
        str(folder / "run"),
        method="witness",
        num_train_epochs=NUM_EPOCHS,
        per_device_train_batch_size=8,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        ddp_backend="gloo",
    )
    soft_labels = make_soft_labels(network("cifar_resnet20", 5), train_set(), NUM_VIEWS, bits=16)
    trainer = DistillationTrainer(network("cifar_resnet8", 1), soft_labels, args, train_set())
    trainer.train()
    rows = {name: torch.cat([step[name] for step in ROWS]) for name in ROWS[0]}
    weights = {f"student.{name}": weight for name, weight in trainer.student.named_parameters()}
    save_tensors(folder / f"rank{os.environ['RANK']}.safetensors", rows | weights)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(float(sys.argv[2]), exit=True)
    main(Path(sys.argv[1]))
    # Under gloo the interpreter may abort on its way out, after everything has been done.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
