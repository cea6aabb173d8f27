"""`KnowledgeCondenser`: Algorithm 1 of KCD, for any training loop."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..artifacts.identity import DatasetIdentity
from .config import KCDConfig
from .mask import KnowledgeMask
from .ranking import keep_of_each_class, random_scores, rank_points
from .record import KnowledgeRecord
from .selection import Selection
from .summary import summarize_knowledge
from .value import RANDOM, get_value


class KnowledgeCondenser:
    """Record the value of every point while a student trains, and select anew where the schedule says so.

    Call `observe` after every forward pass of the student and `end_epoch` after every epoch. The current epoch is
    `epoch`, from 0.

    Args:
        config: How to condense.
        num_points, num_epochs: Points of the whole training set, N, and epochs of the training, I.
        seed: Seed of the random ranking (`value="random"`).
        device: Where the logits are.
        dataset, labels: Identity of the data set, without which there is no mask, and the points' classes, [N] int64.
        provenance: What makes the mask (student, teacher, method, seed), plain JSON values.

    Example:
        ```python
        condenser = KnowledgeCondenser(KCDConfig(), len(dataset), num_epochs=240)
        for epoch in range(240):
            for batch in loader:
                ...
                condenser.observe(batch["point_ids"], student_logits, teacher_logits, batch["labels"])
            selection = condenser.end_epoch()
            if selection is not None:
                dataset.select(selection)
        ```

    Source: KCD, Algorithm 1.
    """

    def __init__(
        self,
        config: KCDConfig,
        num_points: int,
        num_epochs: int,
        *,
        seed: int = 0,
        device: torch.device | str | None = None,
        dataset: DatasetIdentity | None = None,
        labels: Tensor | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> None:
        self.config = config
        self.schedule = config.schedule(num_points, num_epochs)
        self.seed, self.dataset, self.labels, self.provenance = seed, dataset, labels, provenance or {}
        self._device = device
        self._value = get_value(config.value)
        if config.min_per_class:
            if labels is None:
                raise ValueError(f"min_per_class={config.min_per_class} needs the class of every point: give labels.")
            # The last selection is the smallest: what does not fit is refused now, not after some stages.
            num_kept = self.schedule.num_kept(num_epochs)
            keep_of_each_class(torch.arange(num_points), num_kept, labels, config.min_per_class)
        self.reset()

    def reset(self) -> None:
        """Forget every value and selection, and go back to epoch 0."""
        self.epoch = 0
        self.record = KnowledgeRecord(self.schedule.num_points, self._device)
        self.selection: Selection | None = None
        self._selected_before = 0  # The epoch after the latest selection.
        self._selected_by = self.record.state_dict()  # The record at that time.
        self._mixing_history: list[Selection] = []

    def observe(
        self,
        point_ids: Tensor,
        student_logits: Tensor,
        teacher_logits: Tensor | None = None,
        labels: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> None:
        """Record the values of a batch (line 7), without waiting for the device.

        Args:
            point_ids: [B] int64, ids in the whole data set.
            student_logits: [B, C].
            teacher_logits, labels: [B, C] and [B] int64, for values that compare with them.
            valid: [B] bool, rows to record; all rows without it. Values that are not finite are never recorded.
        """
        teacher_logits = None if teacher_logits is None else teacher_logits.detach()
        values = self._value(student_logits.detach(), teacher_logits, labels)
        self.record.observe(point_ids, values if valid is None else values.masked_fill(~valid, torch.nan))

    def end_epoch(self) -> Selection | None:
        """Close the current epoch, and select for the next one where the schedule says so (lines 8 to 14).

        Under `torch.distributed` every process must call it, and all get the same selection.

        Returns:
            The new selection; None when the points stay as they are. With `cumulative_mixing` use
            `KnowledgeDataset.apply(condenser.mask())`, which mixes the partners into the images for good.
        """
        self.record.merge()
        self.record.close_epoch(self.config.online_recording)
        self.epoch += 1
        if not self.schedule.selects_before(self.epoch):
            return None
        config = self.config
        before, num_kept = (self.schedule.num_kept(epoch) for epoch in (self.epoch - 1, self.epoch))
        mixing = (config.max_perturbation, config.augmentation, config.partners)
        order = rank_points(self._scores())
        if config.min_per_class and self.labels is not None:
            order = keep_of_each_class(order, num_kept, self.labels, config.min_per_class)
        self.selection = summarize_knowledge(order, num_kept, *mixing, before).selection
        self._selected_before = self.epoch
        self._selected_by = self.record.state_dict()
        if config.cumulative_mixing:
            self._mixing_history.append(self.selection.mixed())
        return self.selection

    def mask(self) -> KnowledgeMask:
        """Return the knowledge mask of the latest selection.

        Raises:
            RuntimeError: When nothing has been selected yet.
            ValueError: When the condenser does not know the data set's identity.
        """
        if self.selection is None:
            raise RuntimeError("There is no selection yet, so there is no mask: train for more epochs.")
        if self.dataset is None:
            raise ValueError("A mask names its data set: pass dataset=DatasetIdentity.of(...) to KnowledgeCondenser.")
        schedule = self.schedule
        return KnowledgeMask(
            kept=self.selection.points,
            partner=self.selection.partner,
            perturbation=self.selection.perturbation,
            value=self._selected_by["value"],
            frequency=self._selected_by["frequency"],
            stage=schedule.stage(self._selected_before),
            schedule={
                "num_epochs": schedule.num_epochs,
                "relative_cost": schedule.relative_cost,
                "sizes": [schedule.num_kept(epoch) for epoch in range(schedule.num_epochs)],
                **self.config.to_dict(),
            },
            dataset=self.dataset,
            provenance=self.provenance,
            mixing_history=self._mixing_history,
            labels=self.labels,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Copy everything a resumed run needs; on several processes call `record.merge()` on all of them before."""
        state = {f"record.{name}": tensor for name, tensor in self.record.state_dict().items()}
        state["epoch"] = torch.tensor(self.epoch)
        if self.selection is not None:
            state["selected_before"] = torch.tensor(self._selected_before)
            state |= {f"selected_by.{name}": tensor.clone() for name, tensor in self._selected_by.items()}
            state |= _flatten("selection", self.selection)
            for number, mixing in enumerate(self._mixing_history):
                state |= _flatten(f"mixing.{number}", mixing)
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned; a ValueError says when it is foreign, incomplete or corrupt."""
        self.reset()
        try:
            self.record.load_state_dict(_part("record", state))
            self.epoch = int(state["epoch"])
            self.schedule.stage(self.epoch)
            if "selected_before" not in state:
                return
            self._selected_before = int(state["selected_before"])
            before = KnowledgeRecord(self.schedule.num_points)
            before.load_state_dict(_part("selected_by", state))
            self._selected_by = before.state_dict()
            self.selection = Selection(**_part("selection", state))
            while mixing := _part(f"mixing.{len(self._mixing_history)}", state):
                self._mixing_history.append(Selection(**mixing))
            for selection in (self.selection, *self._mixing_history):
                selection.check(self.schedule.num_points)
            self._check_selected(self.selection)
        except (KeyError, TypeError) as error:
            raise ValueError(f"The condenser's state is incomplete ({error}): take an older one.") from error

    def _check_selected(self, selection: Selection) -> None:
        """Refuse a selection of another schedule, and stages without their mixing."""
        stage, num_kept = (ask(self._selected_before) for ask in (self.schedule.stage, self.schedule.num_kept))
        num_mixings = stage if self.config.cumulative_mixing else 0
        if len(selection.points) != num_kept or len(self._mixing_history) != num_mixings:
            found = f"{len(selection.points)} points and {len(self._mixing_history)} mixings in stage {stage}"
            expected = f"{num_kept} and {num_mixings}: it is of another configuration, or incomplete"
            raise ValueError(f"The condenser's state holds {found} instead of {expected}.")

    def _scores(self) -> Tensor:
        """Return the score of every point (Eq. 13), on the CPU."""
        if self.config.value == RANDOM:
            return random_scores(self.schedule.num_points, self.seed, self.epoch)
        scores = self.record.scores(self.config.cost_exponent).cpu()
        # A point that no epoch has shown (drop_last) has no value yet. It ranks first, so that its turn comes.
        return scores.masked_fill(self.record.frequency.cpu() == 0, torch.inf)


def _flatten(name: str, selection: Selection) -> dict[str, Tensor]:
    return {f"{name}.{field}": tensor.clone() for field, tensor in selection._asdict().items()}


def _part(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
