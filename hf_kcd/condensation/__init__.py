"""Knowledge Condensation Distillation without a Trainer: one file per step of the paper's Algorithm 1."""

from .mask import KnowledgeMask
from .ranking import rank_points
from .record import KnowledgeRecord
from .schedule import CondensationSchedule
from .selection import Selection
from .summary import KnowledgeSummary, summarize_knowledge
from .value import (
    available_values,
    get_value,
    prediction_entropy,
    random_value,
    register_value,
)

__all__ = [
    "CondensationSchedule",
    "KnowledgeMask",
    "KnowledgeRecord",
    "KnowledgeSummary",
    "Selection",
    "available_values",
    "get_value",
    "prediction_entropy",
    "random_value",
    "rank_points",
    "register_value",
    "summarize_knowledge",
]
