"""How a `DistillationTrainer` evaluates: every point once, and every network that learned along."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import datasets
import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput
from transformers.utils import logging

from ..data import KnowledgeDataset
from ..errors import unknown_name
from ..losses import cross_entropy_loss
from ..models.lending import lent
from .config import DistillationConfig
from .metrics import Accuracy, asks_for_best, check_metrics, metric_key, rank_classes
from .networks import data_config

logger = logging.get_logger(__name__)

EvaluationSet = datasets.Dataset | KnowledgeDataset
EvaluationSets = EvaluationSet | Mapping[str, EvaluationSet]
# Key of a line of the log that is no result of the run: about a set that was passed to `evaluate`, or, after the training, about
# weights of an earlier epoch.
NO_RESULT = "no_result"


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
    if like is not None and (shown := data_config(dataset.preprocessing)) != (own := data_config(like.preprocessing)):
        other = ", ".join(
            f"{name} {value} instead of {own[name]}" for name, value in shown.items() if value != own[name]
        )
        logger.warning_once(
            f"The evaluation set is prepared otherwise than the saved student says ({other}), so that its accuracy elsewhere "
            "will be another: make it with the preprocessing of the training set."
        )
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


def as_evaluation_sets(
    eval_dataset: EvaluationSets | None, args: DistillationConfig, like: KnowledgeDataset
) -> KnowledgeDataset | dict[str, KnowledgeDataset] | None:
    """Return the evaluation set, or each of several by its name, as the trainer reads them."""
    if eval_dataset is None:
        return None
    if not isinstance(eval_dataset, Mapping):
        return as_knowledge_dataset(eval_dataset, args, training=False, like=like)
    if not eval_dataset or not all(isinstance(name, str) and name for name in eval_dataset):
        raise ValueError(f"eval_dataset has the names {list(eval_dataset)}: give at least one set, by a word each.")
    sets = {}
    for name, dataset in eval_dataset.items():
        try:
            sets[name] = as_knowledge_dataset(dataset, args, training=False, like=like)
        except (TypeError, ValueError) as error:
            raise type(error)(f"eval_dataset[{name!r}]: {error}") from error
    return sets


class EvaluationMixin(Trainer):
    """Evaluates the student, and each of `self.method.networks()`, whose metrics carry its name as a prefix."""

    # The network that is evaluated instead of the student.
    _evaluated: nn.Module | None = None

    def get_eval_dataloader(self, eval_dataset: str | EvaluationSet | None = None):
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            # Trainer keeps the loader of its evaluation set under persistent workers, and would return that one.
            return self.get_test_dataloader(eval_dataset)
        self.eval_dataset = as_evaluation_sets(self.eval_dataset, self.args, self.train_dataset)
        if isinstance(eval_dataset, str):
            names = self.eval_dataset if isinstance(self.eval_dataset, dict) else ()
            if eval_dataset not in names:
                raise unknown_name("evaluation set", eval_dataset, names)
        with self._no_point_dropped():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: EvaluationSet):
        sets = {"training": False, "like": self.train_dataset, "labeled": False}
        test_dataset = as_knowledge_dataset(test_dataset, self.args, **sets)
        with self._no_point_dropped():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _no_point_dropped(self) -> Iterator[None]:
        """Keep the last batch: `dataloader_drop_last` is about training, but Trainer applies it to every loader."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = drop_last

    def evaluate(
        self,
        eval_dataset: str | EvaluationSets | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        num_lines = len(self.state.log_history)
        with self._measured(ranked=True):
            metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        other_set = self.eval_dataset is not None and not isinstance(eval_dataset, str | None)
        best_loaded = self.args.load_best_model_at_end and not self.is_in_train and self.state.best_global_step
        if other_set or best_loaded:
            # In the lines themselves, which checkpoints hold: a resumed run must know it too.
            for line in self.state.log_history[num_lines:]:
                line[NO_RESULT] = True
        return metrics

    def predict(
        self, test_dataset: EvaluationSet, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        with self._measured(ranked=False):
            return super().predict(test_dataset, ignore_keys, metric_key_prefix)

    @contextmanager
    def _measured(self, ranked: bool) -> Iterator[None]:
        """Add accuracy to the metrics; without metrics of the user, `ranked` gathers the five best classes alone."""
        self._claim_accelerator()
        own, preprocess = self.compute_metrics, self.preprocess_logits_for_metrics
        if isinstance(own, Accuracy):  # One of several sets.
            yield
            return
        check_metrics(own, preprocess, self.args)
        self.compute_metrics = Accuracy(own, self.student.num_classes)
        if own is None and ranked:
            self.preprocess_logits_for_metrics = rank_classes
        try:
            # A loader draws a seed from the global generator. Forked, evaluation leaves no trace in the training.
            with self.cost.paused(), torch.random.fork_rng(devices=[]):
                yield
        finally:
            self.compute_metrics, self.preprocess_logits_for_metrics = own, preprocess

    def _determine_best_metric(self, metrics: dict[str, float], trial) -> bool:
        key = metric_key(self.args.metric_for_best_model)
        if key is None or key in metrics:
            return super()._determine_best_metric(metrics, trial)
        if not asks_for_best(self.args):
            return False
        raise unknown_name(
            "metric_for_best_model", self.args.metric_for_best_model, [name for name in metrics if name != "epoch"]
        )

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
