"""Top-1 and top-5 accuracy as an `evaluate.Metric` that works offline."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from torch import Tensor
from transformers import EvalPrediction, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from ..errors import unknown_name

Ids = Sequence[Sequence[int]] | Sequence[int] | np.ndarray
_NUM_RANKED = 5
# What Trainer measures at each evaluation.
_SPEED = ("runtime", "samples_per_second", "steps_per_second")


# What Trainer adds to the predictions, if asked.
_INCLUDED = ("inputs", "loss")


class TopKAccuracy(evaluate.Metric):
    """Percentage of points whose label is the first, or among the first five, of the ranked classes."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Top-1 and top-5 accuracy in percent.",
            citation="",
            inputs_description="predictions: class ids of each point, best first; references: labels.",
            features=datasets.Features(
                {"predictions": datasets.Sequence(datasets.Value("int64")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: Ids, references: Ids) -> dict[str, float]:
        return self.score(predictions, references)

    @staticmethod
    def score(predictions: Ids, references: Ids) -> dict[str, float]:
        """Compute the metric from ranked class ids [N, 5] and labels [N], without the Arrow file of `evaluate`."""
        hits = np.asarray(predictions) == np.asarray(references)[:, None]
        return {"top1": 100.0 * hits[:, :1].any(1).mean(), "top5": 100.0 * hits[:, :_NUM_RANKED].any(1).mean()}


def rank_classes(logits: Tensor, labels: Tensor | None = None) -> Tensor:
    """Reduce logits [B, classes] to the ids of the five best classes [B, 5], before they are gathered."""
    return logits.topk(min(_NUM_RANKED, logits.shape[1]), dim=1).indices


class Accuracy:
    """The Trainer's `compute_metrics`: top-1 and top-5 in percent, top-1 as the fraction `accuracy`, and metrics of the user.

    It takes whole predictions, or batches of them as `batch_eval_metrics` gives them. Metrics of the user go before those
    of the same name here. Where the user's `preprocess_logits_for_metrics` left no logits, the user's metrics come alone.
    """

    def __init__(self, own: Callable[..., dict[str, Any]] | None = None, num_classes: int | None = None) -> None:
        self.own, self._num_classes = own, num_classes
        self._batches: list[tuple[np.ndarray, np.ndarray]] = []

    def __call__(self, prediction: EvalPrediction, **options: Any) -> dict[str, Any]:
        own = {} if self.own is None else self.own(prediction, **options)
        # `compute_result` comes with batches alone, and is true at the last.
        last = options.get("compute_result", True)
        ranked = self._ranked(_whole(prediction.predictions))
        if ranked is not None:
            self._batches.append((ranked, _whole(prediction.label_ids)))
        if not last or not self._batches:
            return own
        ranked, labels = (np.concatenate(parts) for parts in zip(*self._batches, strict=True))
        self._batches = []
        scores = {name: float(value) for name, value in TopKAccuracy.score(ranked, labels).items()}
        scores["accuracy"] = float((ranked[:, 0] == labels).mean())
        named = {name.removeprefix("eval_").removeprefix("test_") for name in own}
        return {**{name: value for name, value in scores.items() if name not in named}, **own}

    def _ranked(self, predictions: np.ndarray | None) -> np.ndarray | None:
        """Rank the classes of logits; None for predictions of the user that are no logits."""
        if predictions is None or predictions.ndim != 2:
            return None
        if not np.issubdtype(predictions.dtype, np.floating):
            return predictions if self.own is None else None
        if self._num_classes not in (None, predictions.shape[1]):
            return None
        return rank_classes(torch.from_numpy(predictions)).numpy()


def compute_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Compute the default metrics from logits [N, classes] or ranked class ids [N, 5]."""
    return Accuracy()(prediction)


def _whole(values: Any) -> Any:
    """Predictions or labels as one array; `eval_do_concat_batches=False` leaves a list of batches."""
    values = values if isinstance(values, list) else [values]
    # NumPy has no bfloat16.
    tensors = [value.float() if isinstance(value, Tensor) and value.is_floating_point() else value for value in values]
    arrays = [value.numpy(force=True) if isinstance(value, Tensor) else value for value in tensors]
    return np.concatenate(arrays) if all(isinstance(array, np.ndarray) and array.ndim for array in arrays) else None


def metric_key(name: str | None) -> str | None:
    """Return a metric's key in the log, as Trainer does for `metric_for_best_model`."""
    return name if name is None or name.startswith("eval_") else f"eval_{name}"


def asks_for_best(args: TrainingArguments) -> bool:
    """Return whether `metric_for_best_model` was chosen, or decides which weights are saved or kept."""
    chosen = args.metric_for_best_model != type(args).metric_for_best_model
    return chosen or args.load_best_model_at_end or args.save_strategy == SaveStrategy.BEST


def check_metrics(
    compute_metrics: Callable | None, preprocess_logits_for_metrics: Callable | None, args: TrainingArguments
) -> None:
    """Refuse metrics of the user that cannot be called as they are."""
    for name in args.include_for_metrics:
        if name not in _INCLUDED:
            raise unknown_name("entry of include_for_metrics", name, _INCLUDED)
    if compute_metrics is None:
        if args.include_for_metrics:
            raise ValueError(
                f"include_for_metrics is {args.include_for_metrics}, but it is for metrics of your own: give "
                "compute_metrics too."
            )
        if preprocess_logits_for_metrics is not None:
            raise ValueError(
                "preprocess_logits_for_metrics is not taken: it belongs to metrics of your own: give compute_metrics too."
            )
        return
    if args.batch_eval_metrics and "compute_result" not in inspect.signature(compute_metrics).parameters:
        raise ValueError(
            "batch_eval_metrics calls compute_metrics for every batch, with compute_result=True at the last: give "
            "compute_metrics a parameter compute_result."
        )


def check_best_metric(args: TrainingArguments, own: bool, evaluation: Any, networks: Iterable[str]) -> None:
    """Refuse an unknown `metric_for_best_model` before training; the names of metrics of the user are not known before.

    Args:
        args: The trainer's arguments.
        own: Whether there are metrics of the user.
        evaluation: The evaluation set, or several by name.
        networks: Names of the networks that learn along.
    """
    key = metric_key(args.metric_for_best_model)
    if key is None or not asks_for_best(args) or args.eval_strategy == "no" or (own and not args.prediction_loss_only):
        return
    measured = ("loss",) if args.prediction_loss_only else ("loss", "top1", "top5", "accuracy")
    prefixes = [f"eval_{name}" for name in evaluation] if isinstance(evaluation, dict) else ["eval"]
    known = [f"{prefix}_{name}" for prefix in prefixes for name in (*measured, *_SPEED)]
    known += [f"{prefix}_{network}_{name}" for prefix in prefixes for network in networks for name in measured]
    if key not in known:
        raise unknown_name("metric_for_best_model", args.metric_for_best_model, known)
