"""`DistillationTrainer`: transformers' Trainer for a teacher, a student, and epochs whose length follows the selection."""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from transformers import BaseImageProcessor, EvalPrediction, TrainerCallback, set_seed
from transformers.trainer_utils import TrainOutput

from ..artifacts.files import load_tensors
from ..artifacts.run_lock import hold_folder
from ..condensation import KnowledgeMask
from ..data import KnowledgeDataset, SoftLabels, collate
from ..data.sources import name_of
from ..methods import DistillationMethod
from ..methods.base import IMAGES
from ..models import network_name
from .arguments import (
    OptimizerClass,
    Optimizers,
    check_functions,
    check_model,
    check_optimizer,
    check_optimizers,
)
from .batches import check_batches
from .callback import KCDTrainerCallback
from .checkpoint import STATE_NAME
from .condensing import CondensingMixin
from .config import DistillationConfig
from .evaluation import EvaluationMixin, EvaluationSets
from .finite import FiniteCheck
from .first_phase import run_first_phase
from .metrics import check_best_metric, check_metrics
from .optimizers import class_and_options
from .processor import as_processor_says, check_processor, check_same_images
from .progress import ImagesLine
from .publishing import PublishingMixin
from .saving import SavingMixin
from .seeding import seeded
from .setup import (
    build_student_and_data,
    check_selection,
    check_sources,
    find_callback,
    select_points,
    show_teacher,
    use_one_device,
)
from .shrinking_epochs import ShrinkingEpochsTrainer
from .trials import TrialsMixin


class DistillationTrainer(
    PublishingMixin, SavingMixin, EvaluationMixin, TrialsMixin, CondensingMixin, ShrinkingEpochsTrainer
):
    """Train a student under a distillation method, with condensation when a `KCDTrainerCallback` is among the callbacks.

    It is `transformers.Trainer` for a shrinking data set: steps, epoch fraction and learning rate follow the schedule,
    batches carry point ids, the loss has named parts, and the saved model is the student alone, for timm and transformers.

    Args:
        model: The student: a timm network (or its name).
        teacher: The network to learn from (or its name); None for methods without one; for methods with several, a list of
            the teacher and its assistants; or its `SoftLabels` of the points that `mask` selects.
        args: How to train.
        train_dataset: A `datasets.Dataset` with an image and a label column, or a `KnowledgeDataset`.
        eval_dataset: The same, for evaluation; or several by name, whose metrics are called `eval_<name>_top1`.
        callbacks: Trainer callbacks; at most one `KCDTrainerCallback`.
        compute_metrics: Metrics from logits [N, classes] and labels, beside `top1` and `top5` in percent and `accuracy`, a
            fraction.
        mask: A published mask: train on its points from the start instead of all (Fig. 4).
        mask_mixing: With `mask`: mix its borderline points with their partners, or only select the points.
        preprocess_logits_for_metrics: With `compute_metrics`: turns logits and labels into its predictions.
        model_init: Makes the student, anew for each training, instead of `model`; its argument, if it has one, is the trial
            of a `hyperparameter_search`. The teacher stays.
        processing_class: An image processor. Its size, mean and standard deviation prepare the images of a plain data set,
            and it is saved with the student.
        optimizers: An optimizer, and a scheduler that is stepped after every update, instead of those of `args`.
        optimizer_cls_and_kwargs: A class of optimizers and its arguments, instead of `args.optim`.
        data_collator, compute_loss_func: Refused: a `KnowledgeDataset` makes whole batches, and the method computes the loss.

    Raises:
        TypeError: For objects of a wrong kind, and a data set without points to select.
        ValueError: For networks and data of different class counts, and whatever else cannot work. Nothing is written then.
    """

    args: DistillationConfig

    def __init__(
        self,
        model: nn.Module | str | None = None,
        teacher: nn.Module | str | Sequence[nn.Module | str] | SoftLabels | None = None,
        args: DistillationConfig | None = None,
        train_dataset: datasets.Dataset | KnowledgeDataset | None = None,
        eval_dataset: EvaluationSets | None = None,
        callbacks: list[TrainerCallback] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict] | None = None,
        mask: KnowledgeMask | None = None,
        mask_mixing: bool = True,
        preprocess_logits_for_metrics: Callable[[Tensor, Tensor], Tensor] | None = None,
        model_init: Callable[..., nn.Module] | None = None,
        processing_class: BaseImageProcessor | None = None,
        optimizers: Optimizers = (None, None),
        optimizer_cls_and_kwargs: OptimizerClass | None = None,
        data_collator: Callable | None = None,
        compute_loss_func: Callable | None = None,
    ) -> None:
        args = DistillationConfig("distillation") if args is None else args
        if not isinstance(args, DistillationConfig):
            raise TypeError(f"args is a {type(args).__name__}: DistillationTrainer takes a DistillationConfig.")
        if train_dataset is None:
            raise ValueError("train_dataset is missing: a method is built for the points it is trained on.")
        # The trainer adapts its own copy.
        args = copy.copy(args)
        use_one_device(args)
        check_functions(data_collator, compute_loss_func)
        check_model(model, teacher, model_init)
        check_optimizers(optimizers, optimizer_cls_and_kwargs, model_init)
        check_metrics(compute_metrics, preprocess_logits_for_metrics, args)
        check_processor(processing_class)
        callbacks = [each() if isinstance(each, type) else each for each in callbacks or []]
        kcd = find_callback(callbacks)
        self.args, self.model_init = args, model_init
        self.soft_labels = teacher if isinstance(teacher, SoftLabels) else None
        self.mask, self.mask_mixing = mask, mask_mixing
        check_sources(args, teacher, kcd, mask, mask_mixing)
        self.command: str | None = None  # The command line, for results and cards; so is the name of the data.
        self._is_plain = isinstance(train_dataset, datasets.Dataset)
        self.data_name = name_of(train_dataset) if self._is_plain else "images"
        train_dataset = as_processor_says(train_dataset, processing_class, args.seed)
        blends = bool(kcd and kcd.config.cumulative_mixing) or bool(mask and mask.mixing_history)
        self._teachers = teacher
        # Networks made by their names and the method's own weights are functions of the seed alone.
        with seeded(args.seed):
            model, *sets = build_student_and_data(model, args, train_dataset, eval_dataset, blends)
            self.train_dataset, self.eval_dataset = sets
            check_same_images(processing_class, self.train_dataset)
            self.model = model = self._first_model(model)
        check_best_metric(args, compute_metrics is not None, self.eval_dataset, model.method.networks())
        check_optimizer(optimizers[0], model.student, model.method)
        self._plan(kcd)
        super().__init__(
            model=model,
            args=args,
            data_collator=collate,
            train_dataset=self.train_dataset,
            eval_dataset=self.eval_dataset,
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=tuple(optimizers),
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        self.model_init = model_init  # Trainer knows none when it is given a network.
        self.add_callback(ImagesLine())
        self._reset_step_records()

    def _plan(self, kcd: KCDTrainerCallback | None) -> None:
        """Select the points, plan the epochs, and refuse what they cannot train."""
        dataset, model = self.train_dataset, self.model
        if model.method.has_unused_parameters:
            self.args.ddp_find_unused_parameters = True
        check_selection(dataset, kcd, self.mask)
        select_points(dataset, self.mask, self.mask_mixing, self.soft_labels)
        show_teacher(dataset, model)
        self._schedule_epochs(kcd)
        check_batches(model, self.schedule, dataset.preprocessing.network_size)
        if kcd is not None:
            self._condense(kcd)

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

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train, from the start or from a checkpoint.

        Args:
            resume_from_checkpoint: A checkpoint's folder, or True for the latest whole one of `output_dir`.
            trial: A trial of `hyperparameter_search`.
            ignore_keys_for_eval: As for `transformers.Trainer`: of a network that returns a dictionary, which no student does.

        Raises:
            FileNotFoundError: When there is no whole checkpoint.
            ValueError: When the checkpoint is incomplete, or belongs to another run; when another process trains into
                `output_dir`.
        """
        if self.model_init is not None:
            self._begin_trial(trial)
        elif trial is not None:
            raise ValueError("trial is not taken without model_init, which makes the student of each trial.")
        self._claim_accelerator()
        try:
            with (
                hold_folder(self.args.output_dir) if self.args.should_save else nullcontext(),
                ExitStack() as self._networks_in_use,
            ):
                checkpoint = self._checkpoint_to_resume(resume_from_checkpoint)
                # Since the constructor seeded the generators, others may have drawn from them: another trainer, the caller.
                set_seed(self.args.seed)
                if self.model_init is None:
                    self._use(self.model)
                return super().train(checkpoint, trial, ignore_keys_for_eval)
        finally:
            # Also after an error, so that callbacks can be changed again.
            self.is_in_train = False

    # ---- A training ----

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        self._shared_state = self._read_shared_state()

    def _read_shared_state(self) -> tuple:
        return getattr(self.accelerator.state, "mixed_precision", None), self.accelerator.gradient_accumulation_steps

    def _claim_accelerator(self) -> None:
        """Take back what accelerate keeps once per process: configurations and trainers made since have changed it."""
        if not self.is_in_train and self._read_shared_state() != self._shared_state:
            AcceleratorState._reset_state()
            self.create_accelerator_and_postprocess()

    def _init_training_state(
        self, max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
    ):
        position = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        self._reset_step_records()
        if self.kcd is not None:
            if self.model_init is not None:
                self._condense(self.kcd, trial)
            self.kcd.reset()
            if resume_from_checkpoint is not None:
                self.kcd.restore(load_tensors(Path(resume_from_checkpoint) / STATE_NAME)[0])
        return position

    def _run_epoch(self, model, epoch, train_dataloader, **kwargs):
        if self.method.first_phase is not None and self.state.global_step == 0:
            run_first_phase(self, model, train_dataloader)
        super()._run_epoch(model=model, epoch=epoch, train_dataloader=train_dataloader, **kwargs)
        self._finite.check()

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        # The published CIFAR tables decay all weights, batch normalization and biases included.
        return [name for name, _ in model.named_parameters()]

    @staticmethod
    def get_optimizer_cls_and_kwargs(args: DistillationConfig, model: nn.Module | None = None) -> tuple[Any, Any]:
        return class_and_options(args, model)

    # ---- A step ----

    def training_step(self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch=None) -> Tensor:
        if not self.model.trains_throughout():
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
        step = self.state.global_step
        finite = self._finite.note(step, point_ids, outputs["loss"], student_logits, teacher_logits)
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
