"""What a data set must be to train or evaluate on: labels in range, and no transform."""

import datasets
import numpy as np
import torch


def refuse_transform(dataset: datasets.Dataset) -> None:
    """Refuse a transform of the data set, which would never be called."""
    if dataset.format["type"] == "custom":
        raise ValueError(
            "The data set has a transform (with_transform or set_transform), which is not called: batches come from a "
            "Preprocessing. Apply it with dataset.map, or take it off with dataset.with_format(None)."
        )


def checked_labels(dataset: datasets.Dataset, column: str, num_classes: int, unlabeled: bool) -> torch.Tensor:
    """Read the class of every point, int64 [N], in shared memory; `unlabeled` accepts -1 everywhere."""
    # pandas turns a missing label into NaN, which the range check finds.
    labels = dataset.with_format(None).select_columns(column).to_pandas()[column].to_numpy()
    valid = (labels >= 0) & (labels < num_classes)
    if unlabeled and ((labels == -1) | (labels != labels)).all():
        return torch.full((len(labels),), -1).share_memory_()
    if not valid.all():
        point = int(np.argmin(valid))
        raise ValueError(
            f"Point {point} has the label {labels[point]}, but classes run from 0 to {num_classes - 1}. Choose a split with "
            "labels, or filter these points."
        )
    return torch.from_numpy(labels.astype(np.int64)).share_memory_()
