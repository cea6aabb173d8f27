"""A mask as a table of all points, as the Hub's viewer shows it."""

from collections.abc import Sequence

import datasets
import numpy as np
import pyarrow
from torch import Tensor

from .selection import Selection


def points_table(
    selection: Selection, value: Tensor, frequency: Tensor, labels: Tensor | None, class_names: Sequence[str]
) -> datasets.Dataset:
    """Make a table with one row a point, in the data set's order; the mask's card explains its columns."""
    kept, num_points = selection.points.numpy(), len(value)
    rank, partner = np.full((2, num_points), -1, dtype=np.int64)
    perturbation = np.zeros(num_points, dtype=np.float32)
    rank[kept], partner[kept], perturbation[kept] = np.arange(len(kept)), selection.partner, selection.perturbation
    columns = {
        "point": pyarrow.array(np.arange(num_points)),
        "kept": pyarrow.array(rank >= 0),
        "rank": pyarrow.array(rank, mask=rank < 0),
        "value": pyarrow.array(value.numpy()),
        "frequency": pyarrow.array(frequency.numpy()),
        "partner": pyarrow.array(partner, mask=partner < 0),
        "perturbation": pyarrow.array(perturbation),
    }
    features = {name: datasets.Value(str(column.type)) for name, column in columns.items()}
    if labels is not None:
        columns["label"] = pyarrow.array(labels.numpy())
        features["label"] = datasets.ClassLabel(names=list(class_names))
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))
