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
    dataset: EvaluationSet,
    args: DistillationConfig,
    training: bool,
    like: KnowledgeDataset | None = None,
    labeled: bool = True,
) -> KnowledgeDataset:
    """Return a data set as the trainer reads it, with its labels in the order of the classes of `like`.

    A plain one gets the preprocessing of `like`, and its columns where it has them. `labeled` refuses one without labels.
    """
    if not isinstance(dataset, KnowledgeDataset):
        if like is None:
            return KnowledgeDataset(dataset, training=training, seed=args.seed)
        dataset = dataset if labeled else _with_label_column(dataset, like)
        columns = {"image_column": like.image_column, "label_column": like.label_column}
        names = dataset.column_names if isinstance(dataset, datasets.Dataset) else ()
        columns = {name: column for name, column in columns.items() if column in names}
        dataset = KnowledgeDataset(dataset, like.preprocessing, training=training, seed=args.seed, **columns)
    if dataset.training != training:
        raise ValueError(
            f"The {'training' if training else 'evaluation'} set has training={dataset.training}: make it with "
            f"training={training}, so that its images are {'' if training else 'not '}augmented."
        )
    if labeled:
        check_labeled(dataset)
    return dataset if like is None else dataset.with_classes(like.class_names, "training set", "evaluation set")


def _with_label_column(dataset: datasets.Dataset, like: KnowledgeDataset) -> datasets.Dataset:
    """Add a column of the label -1 to a data set that has no labels at all."""
    if not isinstance(dataset, datasets.Dataset) or like.label_column in dataset.column_names:
        return dataset
    if any(isinstance(feature, datasets.ClassLabel) for feature in dataset.features.values()):
        return dataset
    labels = datasets.ClassLabel(names=like.class_names)
    return dataset.add_column(like.label_column, [-1] * len(dataset), feature=labels)


def check_labeled(dataset: KnowledgeDataset) -> None:
    """Refuse to evaluate on a data set without labels."""
    if not dataset.labeled:
        raise ValueError(
            "The evaluation set has no labels (-1 everywhere): choose another split, or predict() its classes."
        )


class EvaluationMixin(Trainer):
    """Evaluates the student, and each of `self.method.networks()`, whose metrics carry its name as a prefix."""

    # The network that is evaluated instead of the student.
    _evaluated: nn.Module | None = None

    def get_eval_dataloader(self, eval_dataset: str | EvaluationSet | None = None):
        with self._no_point_dropped():
            return super().get_eval_dataloader(self._evaluation_set(eval_dataset))

    def get_test_dataloader(self, test_dataset: EvaluationSet):
        with self._no_point_dropped():
            return super().get_test_dataloader(self._evaluation_set(test_dataset, labeled=False))

    @contextmanager
    def _no_point_dropped(self) -> Iterator[None]:
        """Keep the last batch: `dataloader_drop_last` is about training, but Trainer applies it to every loader."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = drop_last

    def _evaluation_set(self, dataset, labeled: bool = True):
        if isinstance(dataset, datasets.Dataset | KnowledgeDataset):
            return as_knowledge_dataset(dataset, self.args, training=False, like=self.train_dataset, labeled=labeled)
        return dataset

    def predict(self, *args, **kwargs) -> PredictionOutput:
        self._claim_accelerator()
        return super().predict(*args, **kwargs)

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        self._claim_accelerator()
        # A loader draws a seed from the global generator. Forked, evaluation leaves no trace in the training.
        with self.cost.paused(), torch.random.fork_rng(devices=[]):
            return super().evaluate(*args, **kwargs)

    def evaluation_loop(self, dataloader, description, *args, **kwargs) -> EvalLoopOutput:
        if description == "Evaluation":
            check_labeled(dataloader.dataset)
        # Between steps each process has its own running statistics. The first process's are saved, so use those; DDP
        # would send them only with the next step.
        if self.args.world_size > 1:
            for buffer in self.student.buffers():
                torch.distributed.broadcast(buffer, src=0)
        args = (dataloader, description, *args)
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
        labels = inputs.get("labels")
        images = inputs["pixel_values"].to(next(self.student.parameters()).dtype)
        with torch.no_grad():
            if self._evaluated is None:
                logits = model(images)
            else:
                with self.accelerator.autocast():
                    logits = self._evaluated(images)
            loss = None if labels is None else cross_entropy_loss(logits, labels)
        return (loss, None, None) if prediction_loss_only else (loss, logits, labels)
