"""Two processes keep a contrastive memory: "whole" and "resumed" CRD runs, and "memory_<method>" after a few steps."""

from pathlib import Path

import torch
from small_runs import config, digits, named, network
from torch import Tensor

from hf_kcd import DistillationTrainer, KCDConfig, KCDTrainerCallback
from hf_kcd.artifacts.files import save_tensors
from hf_kcd.methods import DistillationMethod, create_method
from hf_kcd.models import ModelOutputs, ModelSpec

METHODS = ("crd", "wcord")
NUM_POINTS, NUM_CLASSES, NUM_STEPS, ROWS = 40, 4, 5, 5
SPEC = ModelSpec("net", NUM_CLASSES, 6, (4,), (1,), (0.5,) * 3, (0.2,) * 3, (3, 8, 8))
OPTIONS = {"embedding_dim": 8, "num_negatives": 12}
CHECKPOINT = 7


def bare_method(name: str) -> DistillationMethod:
    """The method without a trainer, equal in every process that asks for it."""
    torch.manual_seed(4)
    method = create_method(name, SPEC, SPEC, NUM_POINTS, **OPTIONS)
    method.labels = torch.arange(NUM_POINTS) % NUM_CLASSES
    return method


def rows(step: int) -> tuple[list[ModelOutputs], dict[str, Tensor]]:
    """Outputs of both networks and the batch of a step, for two processes together; one point is in both halves."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randperm(NUM_POINTS, generator=generator)[: 2 * ROWS]
    ids[2 * ROWS - 1] = ids[1]
    logits, first, second = (torch.randn(2 * ROWS, width, generator=generator) for width in (NUM_CLASSES, 6, 6))
    outputs = [ModelOutputs(logits=logits, embedding=embedding) for embedding in (first, second)]
    return outputs, {"point_ids": ids, "labels": ids % NUM_CLASSES}


def steps_alone(name: str, rank: int) -> dict[str, Tensor]:
    """Let the method take its steps on this process's half of the rows."""
    method = bare_method(name)
    half = slice(rank * ROWS, (rank + 1) * ROWS)
    totals = []
    for step in range(NUM_STEPS):
        outputs, batch = rows(step)
        outputs = [ModelOutputs(logits=one.logits[half], embedding=one.embedding[half]) for one in outputs]
        parts = method(*outputs, {key: values[half] for key, values in batch.items()})
        totals.append(torch.stack([parts[key].detach() for key in sorted(parts)]))
    return {"parts": torch.stack(totals), **method.state_dict()}


def train(output_dir: Path, resume: Path | None) -> dict[str, Tensor]:
    """Train with CRD under condensation, with epochs that do not divide by a round of both processes."""
    options = {"num_train_epochs": 4, "gradient_accumulation_steps": 2, "learning_rate": 0.02}
    options |= {"save_strategy": "steps", "save_steps": CHECKPOINT}
    args = config(output_dir, method="crd", method_options=OPTIONS, **options)
    # What a process has drawn before must not matter.
    seed = args.process_index + (resume is not None)
    student, teacher = network("cifar_resnet8", 100 + seed), network("cifar_resnet20", 5)
    torch.manual_seed(200 + seed)
    callback = KCDTrainerCallback(KCDConfig(final_ratio=0.5, epochs_per_stage=1))
    trainer = DistillationTrainer(student, teacher, args, digits(150), callbacks=[callback])
    if resume is None and args.process_index == 1:
        # The first process's state counts, except for what is never sent.
        trainer.method.memory.seed.add_(1)
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return named("student", trainer.student.state_dict()) | named("method", trainer.method.state_dict())


def main(folder: Path, rank: int) -> None:
    whole = train(folder / "whole", None)
    resumed = train(folder / "resumed", folder / "whole" / f"checkpoint-{CHECKPOINT}")
    tensors = {f"memory_{name}": steps_alone(name, rank) for name in METHODS} | {"whole": whole, "resumed": resumed}
    for name, values in tensors.items():
        save_tensors(folder / f"{name}.rank{rank}.safetensors", {key: value.clone() for key, value in values.items()})
