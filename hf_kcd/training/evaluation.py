"""How a `DistillationTrainer` evaluates: every point once, and every network that learned along."""

from collections.abc import Iterator
from contextlib import contextmanager

import datasets
import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput

from ..data import KnowledgeDataset
from ..losses import cross_entropy_loss
from ..models.lending import lent
from .config import DistillationConfig

EvaluationSet = datasets.Dataset | KnowledgeDataset


def as_knowledge_dataset(
    dataset: EvaluationSet, args: DistillationConfig, training: bool, like: KnowledgeDataset | None = None
) -> KnowledgeDataset:
    """Return a data set as the trainer reads it; a plain one gets the preprocessing of `like`."""
    if not isinstance(dataset, KnowledgeDataset):
        preprocessing = None if like is None else like.preprocessing
        return KnowledgeDataset(dataset, preprocessing, training=training, seed=args.seed)
    if dataset.training != training:
        raise ValueError(
            f"The {'training' if training else 'evaluation'} set has training={dataset.training}: make it with "
            f"training={training}, so that its images are {'' if training else 'not '}augmented."
        )
    return dataset


class EvaluationMixin(Trainer):
    """Evaluates the student, and each of `self.method.networks()`, whose metrics carry its name as a prefix."""

    # The network that is evaluated instead of the student.
    _evaluated: nn.Module | None = None

    def get_eval_dataloader(self, eval_dataset: str | EvaluationSet | None = None):
        with self._no_point_dropped():
            return super().get_eval_dataloader(self._evaluation_set(eval_dataset))

    def get_test_dataloader(self, test_dataset: EvaluationSet):
        with self._no_point_dropped():
            return super().get_test_dataloader(self._evaluation_set(test_dataset))

    @contextmanager
    def _no_point_dropped(self) -> Iterator[None]:
        """Keep the last batch: `dataloader_drop_last` is about training, but Trainer applies it to every loader."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = drop_last

    def _evaluation_set(self, dataset):
        if isinstance(dataset, datasets.Dataset):
            return as_knowledge_dataset(dataset, self.args, training=False, like=self.train_dataset)
        return dataset

    def predict(self, *args, **kwargs) -> PredictionOutput:
        self._claim_accelerator()
        return super().predict(*args, **kwargs)

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        self._claim_accelerator()
        # A loader draws a seed from the global generator. Forked, evaluation leaves no trace in the training.
        with self.cost.paused(), torch.random.fork_rng(devices=[]):
            return super().evaluate(*args, **kwargs)

    def evaluation_loop(self, *args, **kwargs) -> EvalLoopOutput:
        # Between steps each process has its own running statistics. The first process's are saved, so use those; DDP
        # would send them only with the next step.
        if self.args.world_size > 1:
            for buffer in self.student.buffers():
                torch.distributed.broadcast(buffer, src=0)
        # bf16_full_eval and fp16_full_eval cast the networks, which lose bits.
        with lent(self.model, modes=False):
            return self._evaluate_networks(*args, **kwargs)

    def _evaluate_networks(self, *args, **kwargs) -> EvalLoopOutput:
        output = super().evaluation_loop(*args, **kwargs)
        prefix = kwargs.pop("metric_key_prefix", "eval")
        for name, network in self.method.networks().items():
            self._evaluated = network
            try:
                metrics = super().evaluation_loop(*args, **kwargs, metric_key_prefix=f"{prefix}_{name}").metrics
            finally:
                self._evaluated = None
            output.metrics.update(metrics)
        return output

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None) -> tuple[Tensor | None, ...]:
        inputs = self._prepare_inputs(inputs)
        labels = inputs["labels"]
        images = inputs["pixel_values"].to(next(self.student.parameters()).dtype)
        with torch.no_grad():
            if self._evaluated is None:
                logits = model(images)
            else:
                with self.accelerator.autocast():
                    logits = self._evaluated(images)
            loss = cross_entropy_loss(logits, labels)
        return (loss, None, None) if prediction_loss_only else (loss, logits, labels)
