"""How a `DistillationTrainer` takes and gives back its `KCDTrainerCallback`: the schedule and the condenser follow."""

from transformers import Trainer, TrainerCallback

from ..condensation import KnowledgeCondenser, KnowledgeMask
from .callback import KCDTrainerCallback
from .cost import CostTracker
from .setup import build_schedule, check_selection, check_sources, check_unused

Callback = TrainerCallback | type[TrainerCallback]


class CondensingMixin(Trainer):
    """Joins the trainer with the callback, whenever it comes, and leaves the trainer without condensation when it goes."""

    kcd: KCDTrainerCallback | None = None

    @property
    def knowledge_mask(self) -> KnowledgeMask:
        """The knowledge mask of the latest selection, or the mask that is trained on; a RuntimeError before the first."""
        mask = self.mask if self.kcd is None else self.kcd.mask
        if mask is None:
            advice = "train() first" if self.kcd else "pass a KCDTrainerCallback in callbacks, then train()"
            raise RuntimeError(f"No knowledge mask yet: {advice}.")
        return mask

    def add_callback(self, callback: Callback) -> None:
        callback = callback() if isinstance(callback, type) else callback
        if isinstance(callback, KCDTrainerCallback):
            if self.kcd is not None:
                raise ValueError("2 KCDTrainerCallbacks would rewrite one selection: remove_callback the first.")
            self._check_not_training()
            check_unused(callback, self.train_dataset)
            check_sources(self.args, self.soft_labels, callback, self.mask, self.mask_mixing)
            check_selection(self.train_dataset, callback, self.mask)
            if callback.config.cumulative_mixing:
                self.train_dataset = self.train_dataset.copy(blends=True)
            self._schedule_epochs(callback)
            self._condense(callback)
        super().add_callback(callback)

    def pop_callback(self, callback: Callback) -> TrainerCallback | None:
        self._check_stays(callback)
        popped = super().pop_callback(callback)
        self._stop_condensing()
        return popped

    def remove_callback(self, callback: Callback) -> None:
        self._check_stays(callback)
        super().remove_callback(callback)
        self._stop_condensing()

    def _schedule_epochs(self, kcd: KCDTrainerCallback | None) -> None:
        """Plan the epochs, and forget what an earlier training cost."""
        self.schedule = build_schedule(self.args, self.train_dataset, kcd)
        self.cost = CostTracker(self.train_dataset.num_points, self.schedule.num_epochs)

    def _condense(self, kcd: KCDTrainerCallback, trial=None) -> None:
        """Give the callback the condenser of this run."""
        dataset = self.train_dataset
        condenser = KnowledgeCondenser(
            kcd.config,
            dataset.num_points,
            self.schedule.num_epochs,
            seed=self.args.seed,
            device=self.args.device,
            dataset=dataset.identity,
            labels=dataset.labels,
            provenance=self._provenance(),
        )
        # The constructor comes here before transformers', so that what cannot be condensed is found before a folder is made.
        folder = self.args.output_dir if trial is None else self._get_output_dir(trial)
        kcd.attach(condenser, dataset, folder if self.args.process_index == 0 else None)
        self.kcd = kcd

    def _stop_condensing(self) -> None:
        """Train on all points again, if the callback was removed."""
        if self.kcd is None or self.kcd in self.callback_handler.callbacks:
            return
        self.kcd.reset()
        self.kcd = None
        self._schedule_epochs(None)

    def _check_stays(self, callback: Callback) -> None:
        matches = isinstance(self.kcd, callback) if isinstance(callback, type) else callback is self.kcd
        if self.kcd is not None and matches:
            self._check_not_training()

    def _check_not_training(self) -> None:
        if self.is_in_train:
            raise RuntimeError(
                "A KCDTrainerCallback decides the length of every epoch: add or remove it before train()."
            )
