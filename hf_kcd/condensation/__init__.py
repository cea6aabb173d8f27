"""Knowledge Condensation Distillation without a Trainer: one file per step of the paper's Algorithm 1."""

from hf_kcd.condensation.mask import KnowledgeMask
from hf_kcd.condensation.ranking import rank_points
from hf_kcd.condensation.record import KnowledgeRecord
from hf_kcd.condensation.schedule import CondensationSchedule
from hf_kcd.condensation.summary import KnowledgeSummary, summarize_knowledge
from hf_kcd.condensation.value import (
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
    "available_values",
    "get_value",
    "prediction_entropy",
    "random_value",
    "rank_points",
    "register_value",
    "summarize_knowledge",
]
