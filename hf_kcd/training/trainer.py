"""`DistillationTrainer`: transformers' Trainer for a teacher, a student, and epochs whose length follows the selection."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from transformers import EvalPrediction, Trainer, TrainerCallback

from ..artifacts.files import load_tensors
from ..condensation import KnowledgeCondenser, KnowledgeMask
from ..data import KnowledgeDataset, SoftLabels, collate
from ..data.sources import name_of
from ..methods import DistillationMethod
from ..methods.base import IMAGES
from ..models import network_name
from .checkpoint import STATE_NAME
from .config import DistillationConfig
from .cost import CostTracker
from .evaluation import EvaluationMixin, as_knowledge_dataset
from .finite import FiniteCheck
from .first_phase import run_first_phase
from .metrics import compute_accuracy, finite_rows, rank_classes, with_accuracy
from .progress import ImagesLine
from .publishing import PublishingMixin
from .saving import SavingMixin
from .setup import (
    build_model,
    build_schedule,
    check_arguments,
    check_launch,
    check_optimizer,
    check_sources,
    find_callback,
    select_points,
    show_teacher,
)
from .shrinking_epochs import ShrinkingEpochsTrainer


class DistillationTrainer(PublishingMixin, SavingMixin, EvaluationMixin, ShrinkingEpochsTrainer):
    """Train a student under a distillation method, with condensation when a `KCDTrainerCallback` is among the callbacks.

    It is `transformers.Trainer` for a shrinking data set: steps, epoch fraction and learning rate follow the schedule,
    batches carry point ids, the loss has named parts, and the saved model is the student alone, for timm and transformers.

    Args:
        model: The student: a timm network (or its name).
        teacher: The network to learn from (or its name); None for methods without one; for methods with several, a list of
            the teacher and its assistants; or its `SoftLabels` of the points that `mask` selects.
        args: How to train.
        train_dataset: A `datasets.Dataset` with an image and a label column, or a `KnowledgeDataset`.
        eval_dataset: The same, for evaluation.
        callbacks: Trainer callbacks; at most one `KCDTrainerCallback`.
        compute_metrics: Metrics from logits [N, classes] and labels, beside top-1 and top-5 accuracy in percent.
        mask: A published mask: train on its points from the start instead of all (Fig. 4).
        mask_mixing: With `mask`: mix its borderline points with their partners, or only select the points.
        preprocess_logits_for_metrics: With `compute_metrics`: turns logits and labels into its predictions.
        **kwargs: Other arguments of `transformers.Trainer`.

    Raises:
        TypeError: For a data set without points to select.
        ValueError: For networks and data of different class counts, and whatever else cannot work. Nothing is written then.
    """

    args: DistillationConfig

    def __init__(
        self,
        model: nn.Module | str,
        teacher: nn.Module | str | Sequence[nn.Module | str] | SoftLabels | None = None,
        args: DistillationConfig | None = None,
        train_dataset: datasets.Dataset | KnowledgeDataset | None = None,
        eval_dataset: datasets.Dataset | KnowledgeDataset | None = None,
        callbacks: list[TrainerCallback] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict] | None = None,
        mask: KnowledgeMask | None = None,
        mask_mixing: bool = True,
        preprocess_logits_for_metrics: Callable[[Tensor, Tensor], Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        args = DistillationConfig("distillation") if args is None else args
        if not isinstance(args, DistillationConfig):
            raise TypeError(f"args is a {type(args).__name__}: DistillationTrainer takes a DistillationConfig.")
        if train_dataset is None:
            raise ValueError("train_dataset is missing: a method is built for the points it is trained on.")
        check_launch(args)
        check_arguments(
            {**kwargs, "preprocess_logits_for_metrics": None if compute_metrics else preprocess_logits_for_metrics}
        )
        self.kcd = find_callback(callbacks)
        check_sources(args, teacher, self.kcd, mask)
        self.soft_labels = teacher if isinstance(teacher, SoftLabels) else None
        self.mask, self.mask_mixing = mask, mask_mixing
        # The name of the data and the command line, for results and cards.
        self.data_name = name_of(train_dataset) if isinstance(train_dataset, datasets.Dataset) else "images"
        self.command: str | None = None
        train_dataset = as_knowledge_dataset(train_dataset, args, training=True)
        if eval_dataset is not None:
            eval_dataset = as_knowledge_dataset(eval_dataset, args, training=False, like=train_dataset)
        model = build_model(model, teacher, args, train_dataset, eval_dataset)
        if model.method.has_unused_parameters:
            args.ddp_find_unused_parameters = True
        select_points(train_dataset, mask, mask_mixing, self.soft_labels)
        show_teacher(train_dataset, model)
        self.schedule = build_schedule(args, train_dataset, self.kcd)
        super().__init__(
            model=model,
            args=args,
            data_collator=collate,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            callbacks=callbacks,
            compute_metrics=with_accuracy(compute_metrics) if compute_metrics else compute_accuracy,
            # Ranked classes need less memory than logits. Metrics of the user get the logits, as from any Trainer.
            preprocess_logits_for_metrics=preprocess_logits_for_metrics if compute_metrics else rank_classes,
            **kwargs,
        )
        self.add_callback(ImagesLine())
        check_optimizer(self.optimizer, self.method)
        self.cost = CostTracker(train_dataset.num_points, args.num_train_epochs)
        self._reset_step_records()
        if self.kcd is not None:
            condenser = KnowledgeCondenser(
                self.kcd.config,
                train_dataset.num_points,
                args.num_train_epochs,
                seed=args.seed,
                device=args.device,
                dataset=train_dataset.identity,
                labels=train_dataset.labels,
                provenance=self._provenance(),
            )
            self.kcd.attach(condenser, train_dataset, args.output_dir if self.is_world_process_zero() else None)

    # ---- What people ask a trainer for ----

    @property
    def student(self) -> nn.Module:
        """The network that is trained."""
        return self.model.student

    @property
    def teacher(self) -> nn.Module | None:
        """The network to learn from; the first of several."""
        return self.model.teacher

    @property
    def teachers(self) -> tuple[nn.Module, ...]:
        """The networks to learn from: the teacher, then its assistants."""
        return self.model.teachers

    @property
    def teacher_name(self) -> str | None:
        """Name of the teacher, also when only its soft labels are here."""
        if self.soft_labels is not None:
            return self.soft_labels.teacher
        return None if self.teacher is None else network_name(self.teacher)

    @property
    def method(self) -> DistillationMethod:
        """The distillation method, with everything it trains beside the student."""
        return self.model.method

    @property
    def knowledge_mask(self) -> KnowledgeMask:
        """The knowledge mask of the latest selection, or the mask that is trained on; a RuntimeError before the first."""
        mask = self.mask if self.kcd is None else self.kcd.mask
        if mask is None:
            advice = "train() first" if self.kcd else "pass a KCDTrainerCallback in callbacks, then train()"
            raise RuntimeError(f"No knowledge mask yet: {advice}.")
        return mask

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any):
        """Train, from the start or from a checkpoint.

        Args:
            resume_from_checkpoint: A checkpoint's folder, or True for the latest whole one of `output_dir`.
            **kwargs: Other arguments of `transformers.Trainer.train`.

        Raises:
            FileNotFoundError: When there is no whole checkpoint.
            ValueError: When the checkpoint is incomplete, or belongs to another run.
        """
        checkpoint = self._checkpoint_to_resume(resume_from_checkpoint)
        # Another trainer of the same data set may have another teacher.
        show_teacher(self.train_dataset, self.model)
        return super().train(resume_from_checkpoint=checkpoint, **kwargs)

    # ---- A training ----

    def _init_training_state(
        self, max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
    ):
        position = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        self._reset_step_records()
        if self.kcd is not None:
            self.kcd.reset()
            if resume_from_checkpoint is not None:
                self.kcd.restore(load_tensors(Path(resume_from_checkpoint) / STATE_NAME)[0])
        return position

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        model, train_dataloader = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if self.method.first_phase is not None and resume_from_checkpoint is None:
            run_first_phase(self, model, train_dataloader)
        return model, train_dataloader

    def _run_epoch(self, *args, **kwargs):
        super()._run_epoch(*args, **kwargs)
        self._finite.check()

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        # The published CIFAR tables decay all weights, batch normalization and biases included.
        return [name for name, _ in model.named_parameters()]

    @staticmethod
    def get_optimizer_cls_and_kwargs(args: DistillationConfig, model: nn.Module | None = None) -> tuple[Any, Any]:
        cls, kwargs = Trainer.get_optimizer_cls_and_kwargs(args, model)
        if cls is torch.optim.SGD:
            kwargs = {"momentum": args.momentum, "nesterov": args.nesterov, **kwargs}
        return cls, kwargs

    # ---- A step ----

    def training_step(self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch=None) -> Tensor:
        # Walking over all modules at every step, only to find them in train mode, costs measurable time.
        if not (self.model.training and self.student.training):
            model.train()
        inputs = self._prepare_inputs(inputs)
        loss = self.compute_loss(model, inputs)
        loss = loss / self.current_gradient_accumulation_steps
        self.backward(loss)
        return loss.detach()

    def _prepare_inputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs = super()._prepare_inputs(inputs)
        if self.args.channels_last:
            for name in IMAGES & inputs.keys():
                inputs[name] = inputs[name].contiguous(memory_format=torch.channels_last)
        return inputs

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self.method.epoch = self.schedule.epoch_at(self.state.global_step)
        # Drawn points cost, also where a method uses only some of them, or several views of each.
        self.cost.draw(len(inputs["point_ids"]) * self.args.world_size)
        outputs = model(**inputs)
        self._record_step(outputs)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def _reset_step_records(self) -> None:
        self._loss_parts: dict[str, Tensor] = {}
        self._num_loss_parts = 0
        self._finite = FiniteCheck()

    def _record_step(self, outputs: Mapping[str, Any]) -> None:
        """Record the step's values and loss parts, on the device."""
        student_logits, teacher_logits = outputs["student_logits"], outputs.get("teacher_logits")
        point_ids = outputs["point_ids"]
        finite = finite_rows(student_logits, teacher_logits) & outputs["loss"].detach().isfinite()
        self._finite.note(finite, point_ids, self.state.global_step)
        if self.kcd is not None:
            self.kcd.condenser.observe(point_ids, student_logits, teacher_logits, outputs["labels"], finite)
        for name, part in outputs["parts"].items():
            self._loss_parts[name] = self._loss_parts[name] + part if name in self._loss_parts else part
        self._num_loss_parts += 1

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._num_loss_parts:
            self._finite.check()
            # All parts leave the device together, once per line of the log.
            parts = torch.stack([part.float() for part in self._loss_parts.values()]) / self._num_loss_parts
            means = self.accelerator.reduce(parts, reduction="mean").tolist()
            logs.update({f"loss_{name}": mean for name, mean in zip(self._loss_parts, means, strict=True)})
            self._loss_parts, self._num_loss_parts = {}, 0
            logs["kept"] = len(self.train_dataset) / self.train_dataset.num_points
            logs["cost"] = self.cost.relative_cost
            if self.kcd is not None and self.kcd.mask is not None:
                logs["stage"] = self.kcd.mask.stage
        super().log(logs, start_time)
