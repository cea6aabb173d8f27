"""`DistillationTrainer`, its `DistillationConfig`, and `KCDTrainerCallback`."""

from ..condensation import KCDConfig
from .callback import KCDTrainerCallback
from .config import DistillationConfig
from .trainer import DistillationTrainer

__all__ = ["DistillationConfig", "DistillationTrainer", "KCDConfig", "KCDTrainerCallback"]
