"""Knowledge Condensation Distillation without a Trainer: one file per step of the paper's Algorithm 1."""

from .condenser import KnowledgeCondenser
from .config import KCDConfig
from .mask import KnowledgeMask
from .ranking import random_scores, rank_points
from .record import KnowledgeRecord
from .schedule import CondensationSchedule
from .selection import Selection
from .summary import KnowledgeSummary, summarize_knowledge
from .value import available_values, get_value, prediction_entropy, register_value

__all__ = [
    "CondensationSchedule",
    "KCDConfig",
    "KnowledgeCondenser",
    "KnowledgeMask",
    "KnowledgeRecord",
    "KnowledgeSummary",
    "Selection",
    "available_values",
    "get_value",
    "prediction_entropy",
    "random_scores",
    "rank_points",
    "register_value",
    "summarize_knowledge",
]
