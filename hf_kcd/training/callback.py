"""`KCDTrainerCallback`: records the value of every point while the Trainer trains, and selects anew at every stage."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import TrainerCallback

from ..artifacts.files import load_tensors, save_tensors
from ..artifacts.run_folder import MASK_FOLDER, STAGES_FOLDER
from ..condensation import (
    CondensationSchedule,
    KnowledgeMask,
    KnowledgeRecord,
    get_value,
    random_value,
    rank_points,
    summarize_knowledge,
)
from ..data import KnowledgeDataset
from .config import KCDConfig

STATE_NAME = "kcd_state.safetensors"


class KCDTrainerCallback(TrainerCallback):
    """Condense the knowledge while a `DistillationTrainer` trains (Algorithm 1).

    Every step the student's logits give the values of the batch's points (E-step, line 7); at the start of an epoch that
    the schedule names, all points are ranked and the training set's selection is rewritten (lines 8 to 14). A selection
    belongs to an epoch's start and not to the end of the one before: a checkpoint taken at an epoch's last step is
    resumed without that end.

    Args:
        config: How to condense; the paper's configuration without one.

    Example:
        ```python
        callback = KCDTrainerCallback(KCDConfig(final_ratio=0.7, epochs_per_stage=40))
        trainer = DistillationTrainer(student, teacher, args, train_dataset=data, callbacks=[callback])
        ```
    """

    def __init__(self, config: KCDConfig | None = None) -> None:
        self.config = config or KCDConfig()
        self.dataset: KnowledgeDataset | None = None
        self.record: KnowledgeRecord | None = None
        self.mask: KnowledgeMask | None = None

    def attach(
        self,
        dataset: KnowledgeDataset,
        schedule: CondensationSchedule,
        device: torch.device,
        seed: int,
        output_dir: str | Path | None,
        provenance: dict,
    ) -> None:
        """Join the callback with a run; `DistillationTrainer` does it.

        Args:
            dataset: The training set, whose selection is rewritten.
            schedule: The schedule that `config` makes for this run.
            device: Where the logits are.
            seed: Seed of the run, for the random ranking.
            output_dir: Where the mask of every stage is written; None on processes that do not write.
            provenance: What made the masks, as plain JSON values.

        Raises:
            ValueError: When the configuration asks for what the data set cannot do.
        """
        if self.config.cumulative_mixing and not dataset.in_memory:
            raise ValueError(
                "cumulative_mixing rewrites 8-bit images in memory, but these images are decoded one by one (of several sizes, "
                "or over the memory budget). Use the paper's preset, or raise memory_budget."
            )
        self.dataset = dataset
        self.schedule = schedule
        self.seed = seed
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.provenance = provenance
        self._device = device
        drawn = self.config.value == "random"
        # A random ranking is drawn at the selection; what is recorded then is the entropy, for the report.
        self._value = get_value("entropy" if drawn else self.config.value)
        self.reset()

    def reset(self) -> None:
        """Forget every value and select all points again."""
        self.record = KnowledgeRecord(self.schedule.num_points, device=self._device)
        self.mask = None
        self._recorded_epoch = 0
        self._mixing_history: list[tuple[Tensor, Tensor, Tensor]] = []
        self.dataset.restore_images()
        self.dataset.select_all()

    def observe(
        self,
        point_ids: Tensor,
        student_logits: Tensor,
        teacher_logits: Tensor | None,
        labels: Tensor,
        finite: Tensor,
    ) -> None:
        """Record the values of a batch, without a host sync.

        Args:
            point_ids: [B] int64.
            student_logits: [B, classes], detached.
            teacher_logits: [B, classes], detached; None without a teacher.
            labels: [B] int64.
            finite: [B] bool, whether the row's logits and the batch's loss are; other rows are left out.
        """
        values = self._value(student_logits, teacher_logits, labels)
        self.record.observe(point_ids, values.masked_fill(~finite, torch.nan))

    def on_train_begin(self, args, state, control, **kwargs):
        if self.dataset is None:
            raise RuntimeError(
                "KCDTrainerCallback needs what transformers.Trainer does not have: point ids in the batches, the student's "
                "logits of every step, and epochs whose length follows the selection. Pass it in the "
                "callbacks of hf_kcd.DistillationTrainer, which takes the arguments of Trainer and a teacher."
            )

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.advance(int(state.epoch or 0))

    def on_train_end(self, args, state, control, **kwargs):
        # The last epoch counts too; the released code selects once more after it, which shapes the mask alone.
        self.advance(int(state.epoch or 0))

    def advance(self, epoch: int) -> None:
        """Close the epochs before `epoch` and select for it where the schedule says so.

        Args:
            epoch: The epoch that begins, from 0; the number of epochs after the last one.
        """
        if epoch > self._recorded_epoch:
            self.record.merge()
            self.record.close_epoch(self.config.online_recording)
            self._recorded_epoch = epoch
            if self.schedule.selects_before(epoch):
                self._select(epoch)

    def _select(self, epoch: int) -> None:
        config, schedule, record = self.config, self.schedule, self.record
        if config.value == "random":
            scores = random_value(schedule.num_points, self.seed, epoch)
        else:
            scores = record.scores(config.cost_exponent).cpu()
            # A point no epoch has shown (drop_last) has no value yet; first in rank, it gets its turn.
            scores[record.frequency.cpu() == 0] = torch.inf
        summary = summarize_knowledge(
            rank_points(scores),
            schedule.num_kept(epoch),
            config.max_perturbation,
            config.augmentation,
            config.partners,
            schedule.num_kept(epoch - 1),
        )
        partner, perturbation = summary.partner, summary.perturbation
        if config.cumulative_mixing:
            mixed = partner >= 0
            mixing = (summary.kept[mixed], partner[mixed], perturbation[mixed])
            self._mixing_history.append(mixing)
            self.dataset.blend(*mixing)
            self.dataset.select(summary.kept)
        else:
            self.dataset.select(summary.kept, partner, perturbation)
        self.mask = KnowledgeMask(
            kept=summary.kept,
            partner=partner,
            perturbation=perturbation,
            value=record.value.cpu(),
            frequency=record.frequency.cpu(),
            stage=schedule.stage(epoch),
            schedule=self._schedule_dict(),
            dataset=self.dataset.identity,
            provenance=self.provenance,
            mixing_history=list(self._mixing_history),
            labels=self.dataset.labels,
        )
        if self.output_dir is not None:
            self.mask.save_pretrained(self.output_dir / STAGES_FOLDER / f"stage-{self.mask.stage:02d}")

    def _schedule_dict(self) -> dict:
        schedule = self.schedule
        return {
            "num_epochs": schedule.num_epochs,
            "relative_cost": schedule.relative_cost,
            "sizes": [schedule.num_kept(epoch) for epoch in range(schedule.num_epochs)],
            **self.config.to_dict(),
        }

    def save_state(self, folder: str | Path) -> None:
        """Write record and selection into a checkpoint; `record.merge()` must have run on every process before.

        Args:
            folder: The checkpoint.
        """
        tensors = {f"record.{name}": tensor for name, tensor in self.record.state_dict().items()}
        tensors["recorded_epoch"] = torch.tensor(self._recorded_epoch)
        save_tensors(Path(folder) / STATE_NAME, tensors)
        if self.mask is not None:
            self.mask.save_pretrained(Path(folder) / MASK_FOLDER)

    def load_state(self, folder: str | Path) -> None:
        """Take up record and selection from a checkpoint.

        Args:
            folder: The checkpoint.

        Raises:
            ValueError: When it is corrupt, or of another data set.
        """
        folder = Path(folder)
        tensors, _ = load_tensors(folder / STATE_NAME)
        self.reset()
        self.record.load_state_dict(
            {name.removeprefix("record."): tensor for name, tensor in tensors.items() if name.startswith("record.")}
        )
        self._recorded_epoch = int(tensors["recorded_epoch"])
        if not (folder / MASK_FOLDER).is_dir():
            return
        self.mask = KnowledgeMask.from_pretrained(folder / MASK_FOLDER)
        self.mask.check(self.dataset.identity)
        apply_mask(self.dataset, self.mask)
        self._mixing_history = list(self.mask.mixing_history)


def apply_mask(dataset: KnowledgeDataset, mask: KnowledgeMask, mixing: bool = True) -> None:
    """Select a mask's points in a data set (Fig. 4), with the mixing that the mask records or without.

    Args:
        dataset: The training set the mask was made on.
        mask: The mask.
        mixing: Mix borderline points with their partners ("+VAKS"); without it the points stay as they are ("+DS").

    Raises:
        ValueError: When the mask belongs to another data set.
    """
    dataset.apply(mask, mixing)
