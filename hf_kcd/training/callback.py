"""`KCDTrainerCallback`: condenses the knowledge while a `DistillationTrainer` trains."""

from pathlib import Path

from transformers import TrainerCallback
from transformers.utils import logging

from ..artifacts.run_folder import STAGES_FOLDER
from ..condensation import KCDConfig, KnowledgeCondenser, KnowledgeMask
from ..data import KnowledgeDataset

logger = logging.get_logger(__name__)


class KCDTrainerCallback(TrainerCallback):
    """Join a `KnowledgeCondenser` with the Trainer: the epochs that it ends, the data set that it selects from.

    The trainer passes every step's logits to `condenser.observe`. Points are selected when an epoch begins, not when
    the one before ends: a run resumed from a checkpoint at an epoch's last step never sees that end.

    Args:
        config: How to condense; the paper's configuration without one.

    Attributes:
        condenser: Algorithm 1; None until a trainer takes the callback.
        mask: The mask of the latest selection; None before the first.

    Example:
        ```python
        callback = KCDTrainerCallback(KCDConfig(final_ratio=0.7, epochs_per_stage=40))
        trainer = DistillationTrainer(student, teacher, args, train_dataset=data, callbacks=[callback])
        ```
    """

    def __init__(self, config: KCDConfig | None = None) -> None:
        self.config = config or KCDConfig()
        self.condenser: KnowledgeCondenser | None = None
        self.mask: KnowledgeMask | None = None

    def attach(self, condenser: KnowledgeCondenser, dataset: KnowledgeDataset, output_dir: str | Path | None) -> None:
        """Join the callback with a run, as `DistillationTrainer` does; it writes masks unless `output_dir` is None."""
        if self.config.cumulative_mixing and not dataset.in_memory:
            raise ValueError(
                "cumulative_mixing rewrites 8-bit images in memory, but these are decoded one by one (of several sizes, or "
                "over the memory budget). Use the paper's preset, or raise memory_budget."
            )
        self.condenser, self.dataset = condenser, dataset
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.reset()

    def reset(self) -> None:
        """Forget every value and select all points again."""
        self.condenser.reset()
        self.mask = None
        self.dataset.restore_images()
        self.dataset.select_all()

    def restore(self, state: dict) -> None:
        """Continue from the state of a condenser, and select its points."""
        self.reset()
        self.condenser.load_state_dict(state)
        self._apply()

    def on_train_begin(self, args, state, control, **kwargs):
        if self.condenser is None:
            raise RuntimeError(
                "KCDTrainerCallback needs point ids in the batches, the student's logits of every step, and epochs that "
                "shrink, which transformers.Trainer lacks: pass it in the callbacks of hf_kcd.DistillationTrainer."
            )

    def on_epoch_begin(self, args, state, control, **kwargs):
        self._end_epochs_before(int(state.epoch or 0))

    def on_train_end(self, args, state, control, **kwargs):
        # The last epoch counts too. The released code selects once more after it, which shapes the mask alone.
        self._end_epochs_before(int(state.epoch or 0))

    def _end_epochs_before(self, epoch: int) -> None:
        while self.condenser.epoch < epoch:
            if self.condenser.end_epoch() is not None:
                self._apply()
                self._warn_of_empty_classes()
                if self.output_dir is not None:
                    self.mask.save_pretrained(self.output_dir / STAGES_FOLDER / f"stage-{self.mask.stage:02d}")

    def _warn_of_empty_classes(self) -> None:
        if self.output_dir is None or self.mask.classes is None:
            return
        left, num_classes = self.mask.classes
        if left < num_classes:
            logger.warning(
                f"Stage {self.mask.stage} keeps no point of {num_classes - left:,} of {num_classes:,} classes: the student "
                "will not see them. min_per_class=1 keeps the most valuable point of each, a larger final_ratio more points."
            )

    def _apply(self) -> None:
        if self.condenser.selection is not None:
            self.mask = self.condenser.mask()
            self.dataset.apply(self.mask)
