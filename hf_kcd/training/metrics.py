"""Top-1 and top-5 accuracy as an `evaluate.Metric` that works offline."""

from collections.abc import Callable, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from torch import Tensor
from transformers import EvalPrediction

Ids = Sequence[Sequence[int]] | Sequence[int] | np.ndarray
_NUM_RANKED = 5


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


def compute_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Compute the Trainer's metrics from logits [N, classes] or ranked class ids [N, 5]."""
    predictions = prediction.predictions
    if np.issubdtype(predictions.dtype, np.floating):
        predictions = rank_classes(torch.from_numpy(predictions)).numpy()
    scores = TopKAccuracy.score(predictions, prediction.label_ids)
    return {name: float(value) for name, value in scores.items()}


def with_accuracy(compute_metrics: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Add `compute_accuracy` to metrics of the user, wherever these get logits."""

    def compute(prediction: EvalPrediction, **options: Any) -> dict[str, Any]:
        logits = prediction.predictions
        is_logits = isinstance(logits, np.ndarray) and logits.ndim == 2 and np.issubdtype(logits.dtype, np.floating)
        return {**(compute_accuracy(prediction) if is_logits else {}), **compute_metrics(prediction, **options)}

    return compute
