"""`DistillationTrainer`: transformers' Trainer for a teacher, a student, and epochs whose length follows the selection."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from transformers import EvalPrediction, Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput
from transformers.utils import logging

from ..artifacts.environment import library_versions
from ..artifacts.files import load_tensors, save_tensors, write_json
from ..condensation import CondensationSchedule, KnowledgeMask
from ..data import KnowledgeDataset, Preprocessing, SoftLabels, collate
from ..data.sources import name_of
from ..losses import cross_entropy_loss
from ..methods import DistillationMethod, as_teachers, create_method
from ..methods.registry import get_method
from ..models import load_model, network_name, save_model
from .account import Account
from .callback import KCDTrainerCallback, apply_mask
from .checkpoint import RUN_NAME, check_run, last_whole_checkpoint, missing_from_checkpoint
from .checks import check_classes, check_images, check_launch
from .config import DistillationConfig
from .finite import FiniteCheck
from .metrics import compute_accuracy, finite_rows, rank_classes
from .model import DistillationModel
from .publishing import PublishingMixin
from .soft_labels import check_method, teacher_spec

METHOD_NAME = "method.safetensors"

logger = logging.get_logger(__name__)


class DistillationTrainer(PublishingMixin, Trainer):
    """Train a student under a distillation method, with condensation when a `KCDTrainerCallback` is among the callbacks.

    It is `transformers.Trainer`, with what distilling a set that shrinks needs changed: the number of steps, the epoch
    fraction and the learning rate follow the schedule; batches carry point ids; the loss has named parts; the model that
    is saved is the student alone, as timm and transformers load it.

    Args:
        model: The student: a timm network (or its name).
        teacher: The network it learns from (or its name); None for methods without one; for methods with several, a list of
            the teacher and its assistants; or its `SoftLabels` of the points that `mask` selects, in place of it.
        args: How to train.
        train_dataset: A `datasets.Dataset` with an image and a label column, or a `KnowledgeDataset`.
        eval_dataset: The same, for evaluation.
        callbacks: Trainer callbacks; at most one `KCDTrainerCallback`.
        compute_metrics: Metrics from ranked classes [N, 5] and labels; top-1 and top-5 accuracy without it.
        mask: A published mask whose points are trained on from the start instead of all (Fig. 4).
        mask_mixing: With `mask`: mix its borderline points with their partners, or select the points only.
        **kwargs: What `transformers.Trainer` takes besides.

    Raises:
        TypeError: For a data set without points to select.
        ValueError: For networks and data of different class counts, and what else cannot work; nothing has been written yet.
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
        **kwargs: Any,
    ) -> None:
        if args is None:
            args = DistillationConfig("distillation")
        if not isinstance(args, DistillationConfig):
            raise TypeError(f"args is a {type(args).__name__}: DistillationTrainer takes a DistillationConfig.")
        if train_dataset is None:
            raise ValueError("train_dataset is missing: a method is built for the points it is trained on.")
        check_launch(args)
        self.kcd = _kcd_callback(callbacks)
        if self.kcd is not None and mask is not None:
            raise ValueError(
                "A mask fixes the points of the whole training: leave out KCDTrainerCallback, or the mask."
            )
        self.soft_labels = teacher if isinstance(teacher, SoftLabels) else None
        if self.soft_labels is not None:
            check_method(get_method(args.method))
            if self.kcd is not None:
                raise ValueError(
                    "Soft labels are of one selection, which KCDTrainerCallback would change: leave it out, and pass the mask."
                )
            teacher = None
        # What results and cards say of the run: what its data set is called, and what was typed to make it.
        self.data_name = name_of(train_dataset) if isinstance(train_dataset, datasets.Dataset) else "images"
        self.command: str | None = None
        train_dataset = _knowledge_dataset(train_dataset, args, training=True)
        if eval_dataset is not None:
            eval_dataset = _knowledge_dataset(eval_dataset, args, training=False, like=train_dataset)
        student = load_model(model, train_dataset.num_classes) if isinstance(model, str) else model
        teachers = [
            load_model(one, train_dataset.num_classes) if isinstance(one, str) else one for one in as_teachers(teacher)
        ]
        check_classes(student, teachers, train_dataset, eval_dataset)
        preprocessing = train_dataset.preprocessing
        check_images(student, preprocessing.network_size)
        # From here on this is what the student is shown: where it is saved, or becomes a teacher, its configuration says so.
        student.pretrained_cfg.update(_data_config(preprocessing))
        method = create_method(
            args.method,
            student,
            teachers if self.soft_labels is None else teacher_spec(self.soft_labels, preprocessing),
            train_dataset.num_points,
            student_layers=args.student_layers,
            teacher_layers=args.teacher_layers,
            **args.method_options,
        )
        method.labels = train_dataset.labels
        for network in method.networks().values():
            network.pretrained_cfg.update(_data_config(preprocessing))
        if method.leaves_weights_out:
            args.ddp_find_unused_parameters = True
        if mask is not None:
            apply_mask(train_dataset, mask, mask_mixing)
        # None too: a data set may come from a training with soft labels.
        train_dataset.use_soft_labels(self.soft_labels)

        size = (preprocessing.network_size, preprocessing.network_size)
        model = DistillationModel(student, method, teachers, preprocessing.mean, preprocessing.std, size)
        if args.channels_last:
            model.to(memory_format=torch.channels_last)
        super().__init__(
            model=model,
            args=args,
            data_collator=collate,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            callbacks=callbacks,
            compute_metrics=compute_metrics or compute_accuracy,
            preprocess_logits_for_metrics=rank_classes,
            **kwargs,
        )
        self.mask = mask
        self.mask_mixing = mask_mixing
        if self.kcd is not None:
            schedule = self.kcd.config.schedule(train_dataset.num_points, args.num_train_epochs)
        else:
            # One stage of whole epochs.
            epochs = args.num_train_epochs
            schedule = CondensationSchedule(
                len(train_dataset), epochs, epochs, final_ratio=1.0, first_selection="after_first_stage"
            )
        self.schedule = schedule.with_batches(
            args.train_batch_size, args.world_size, args.gradient_accumulation_steps, args.dataloader_drop_last
        )
        self.account = Account(train_dataset.num_points, args.num_train_epochs)
        self._loss_parts: dict[str, Tensor] = {}
        self._num_loss_parts = 0
        # What is evaluated in the student's place: a network that learns along.
        self._evaluated: nn.Module | None = None
        if self.kcd is not None:
            self.kcd.attach(
                train_dataset,
                self.schedule,
                args.device,
                args.seed,
                args.output_dir if self.is_world_process_zero() else None,
                self._provenance(),
            )

    # ---- What people ask a trainer for ----

    @property
    def student(self) -> nn.Module:
        """The network that is trained."""
        return self.model.student

    @property
    def teacher(self) -> nn.Module | None:
        """The network that is learned from; the first of several."""
        return self.model.teacher

    @property
    def teachers(self) -> tuple[nn.Module, ...]:
        """The networks that are learned from: the teacher, then its assistants."""
        return self.model.teachers

    @property
    def teacher_name(self) -> str | None:
        """Name of the network that is learned from, also where its soft labels stand for it."""
        if self.soft_labels is not None:
            return self.soft_labels.teacher
        return None if self.teacher is None else network_name(self.teacher)

    @property
    def method(self) -> DistillationMethod:
        """The distillation method, with what it trains besides the student."""
        return self.model.method

    @property
    def knowledge_mask(self) -> KnowledgeMask:
        """The knowledge mask of the latest selection, or the one that is trained on.

        Raises:
            RuntimeError: When nothing has been selected yet.
        """
        mask = self.mask if self.kcd is None else self.kcd.mask
        if mask is None:
            raise RuntimeError(
                "No knowledge mask yet: "
                + ("train() first." if self.kcd else "pass a KCDTrainerCallback in callbacks, then train().")
            )
        return mask

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any):
        """Train, from the start or from a checkpoint.

        Args:
            resume_from_checkpoint: A checkpoint's folder, or True for the latest whole one of `output_dir`.
            **kwargs: What `transformers.Trainer.train` takes besides.

        Raises:
            FileNotFoundError: When there is no whole checkpoint.
            ValueError: When the checkpoint is incomplete, or belongs to another run.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_whole_checkpoint(self.args.output_dir)
        elif resume_from_checkpoint:
            missing = missing_from_checkpoint(resume_from_checkpoint)
            if missing:
                raise ValueError(
                    f"{resume_from_checkpoint} is no whole checkpoint: missing or cut short are {', '.join(missing)}. "
                    "Resume from an earlier one."
                )
        if resume_from_checkpoint:
            check_run(resume_from_checkpoint, self._run_description())
            resume_from_checkpoint = str(resume_from_checkpoint)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    # ---- The length of an epoch: three frozen numbers replaced ----

    def set_initial_training_values(self, args, dataloader):
        _, _, num_examples, _, total_batch_size, _, _ = super().set_initial_training_values(args, dataloader)
        schedule = self.schedule
        total_updates = schedule.total_updates
        return (
            schedule.num_epochs,
            schedule.updates(0),
            num_examples,
            schedule.absolute_cost,
            total_batch_size,
            schedule.batches(0),
            min(args.max_steps, total_updates) if args.max_steps > 0 else total_updates,
        )

    def _init_training_state(
        self, max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
    ):
        position = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        self._loss_parts, self._num_loss_parts = {}, 0
        self._finite = FiniteCheck()
        self.account = Account(self.train_dataset.num_points, self.schedule.num_epochs)
        if self.kcd is not None:
            self.kcd.reset()
        if resume_from_checkpoint is None:
            return position
        self.account.load(resume_from_checkpoint)
        if self.kcd is not None:
            self.kcd.load_state(resume_from_checkpoint)
        return self.schedule.locate(self.state.global_step)

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        model, train_dataloader = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if self.method.initialisation_epochs and resume_from_checkpoint is None:
            self._initialise_method(model, train_dataloader)
        return model, train_dataloader

    def _run_epoch(self, model, epoch, train_dataloader, steps_in_epoch, num_update_steps_per_epoch, **kwargs):
        schedule = self.schedule
        if len(train_dataloader) != schedule.batches(epoch):
            raise RuntimeError(
                f"The loader has {len(train_dataloader)} batches where the schedule has {schedule.batches(epoch)}: leave "
                "split_batches, dispatch_batches and even_batches of accelerator_config at their defaults."
            )
        self.train_dataset.set_epoch(epoch)
        self._seed_workers(train_dataloader, epoch)
        # A student handed over in eval mode, or put there between two epochs, would keep its batch statistics.
        model.train()
        self.account.begin(epoch)
        super()._run_epoch(
            model=model,
            epoch=epoch,
            train_dataloader=train_dataloader,
            steps_in_epoch=schedule.batches(epoch),
            num_update_steps_per_epoch=schedule.updates(epoch),
            **kwargs,
        )
        self.account.stop()
        self._finite.check()

    def _seed_workers(self, train_dataloader, epoch: int) -> None:
        """Give the loader its own generator: it draws a seed per iterator, of which persistent workers need fewer."""
        generator = torch.Generator()
        generator.manual_seed(self.args.seed * 2**20 + epoch)
        train_dataloader.base_dataloader.generator = generator

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        if self.lr_scheduler is None:
            factor, schedule = self.args.learning_rate_factor(), self.schedule
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, lambda step: factor(schedule.epoch_at(min(step, schedule.total_updates)))
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # ---- A step ----

    def training_step(self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch=None) -> Tensor:
        # Walking over all modules each step only to find them in train mode costs more than it says.
        if not self.model.training:
            model.train()
        inputs = self._prepare_inputs(inputs)
        loss = self.compute_loss(model, inputs)
        loss = loss / self.current_gradient_accumulation_steps
        self._backward(loss)
        return loss.detach()

    def _backward(self, loss: Tensor) -> None:
        # accelerate divides by the accumulation it was told of: by the true one under transformers 5.3, by 1 later.
        self.accelerator.backward(loss * self.accelerator.gradient_accumulation_steps)

    def _prepare_inputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs = super()._prepare_inputs(inputs)
        if self.args.channels_last:
            inputs["pixel_values"] = inputs["pixel_values"].contiguous(memory_format=torch.channels_last)
        return inputs

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self.method.epoch = self.schedule.epoch_at(self.state.global_step)
        # What is drawn costs, also where a method chooses among it or multiplies it.
        self.account.draw(len(inputs["point_ids"]) * self.args.world_size)
        outputs = model(**inputs)
        self._note(outputs)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def _note(self, outputs: Mapping[str, Any]) -> None:
        """Take the step's values and loss parts down, on the device."""
        student_logits, teacher_logits = outputs["student_logits"], outputs.get("teacher_logits")
        point_ids = outputs["point_ids"]
        finite = finite_rows(student_logits, teacher_logits) & outputs["loss"].detach().isfinite()
        self._finite.note(finite, point_ids, self.state.global_step)
        if self.kcd is not None:
            self.kcd.observe(point_ids, student_logits, teacher_logits, outputs["labels"], finite)
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
            logs["cost"] = self.account.relative_cost
            if self.kcd is not None and self.kcd.mask is not None:
                logs["stage"] = self.kcd.mask.stage
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0

    def _get_grad_norm(self, model, grad_norm=None):
        if grad_norm is None and not self.args.log_grad_norm:
            return None
        return super()._get_grad_norm(model, grad_norm=grad_norm)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        # The published CIFAR tables decay all weights, batch normalisation and biases included.
        return [name for name, _ in model.named_parameters()]

    @staticmethod
    def get_optimizer_cls_and_kwargs(args: DistillationConfig, model: nn.Module | None = None) -> tuple[Any, Any]:
        cls, kwargs = Trainer.get_optimizer_cls_and_kwargs(args, model)
        if cls is torch.optim.SGD:
            kwargs = {"momentum": args.momentum, "nesterov": args.nesterov, **kwargs}
        return cls, kwargs

    def _initialise_method(self, model: nn.Module, train_dataloader) -> None:
        """Run a method's first phase (FitNet, FT, AB, FSP): its own losses, its own optimiser, nothing recorded."""
        method, args = self.method, self.args
        trained = model if method.initialisation_reads_student else method
        learning_rate = method.initialisation_learning_rate or args.learning_rate
        optimizer = torch.optim.SGD(
            [parameter for parameter in trained.parameters() if parameter.requires_grad],
            lr=learning_rate,
            momentum=args.momentum,
            nesterov=args.nesterov,
            weight_decay=args.weight_decay,
        )
        optimizer = self.accelerator.prepare_optimizer(optimizer)
        model.train()
        self.model.initialising = True
        for epoch in range(method.initialisation_epochs):
            # Epochs of their own after those of the training, so that both see other crops of the images.
            self.train_dataset.set_epoch(self.schedule.num_epochs + epoch)
            train_dataloader.set_epoch(self.schedule.num_epochs + epoch)
            self._seed_workers(train_dataloader, self.schedule.num_epochs + epoch)
            decays = sum(epoch >= decay_epoch for decay_epoch in method.initialisation_decay_epochs)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * 0.1**decays
            for step, batch in enumerate(train_dataloader):
                method.epoch = epoch + step / len(train_dataloader)
                self._backward(model(**self._prepare_inputs(batch))["loss"])
                optimizer.step()
                optimizer.zero_grad()
        self.model.initialising = False

    # ---- Evaluation ----

    def get_eval_dataloader(self, eval_dataset: str | datasets.Dataset | KnowledgeDataset | None = None):
        with self._no_point_dropped():
            return super().get_eval_dataloader(self._evaluation_set(eval_dataset))

    def get_test_dataloader(self, test_dataset: datasets.Dataset | KnowledgeDataset):
        with self._no_point_dropped():
            return super().get_test_dataloader(self._evaluation_set(test_dataset))

    @contextmanager
    def _no_point_dropped(self) -> Iterator[None]:
        """Make loaders of every point: `dataloader_drop_last` is about epochs of training, and Trainer takes it for all."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = drop_last

    def _evaluation_set(self, dataset: Any) -> Any:
        """A plain data set, handed to evaluate or predict, as the evaluation reads it."""
        if isinstance(dataset, datasets.Dataset):
            return _knowledge_dataset(dataset, self.args, training=False, like=self.train_dataset)
        return dataset

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        # A loader draws a seed from the global generator: forked, so that evaluating leaves no trace in the training.
        with self.account.paused(), torch.random.fork_rng(devices=[]):
            return super().evaluate(*args, **kwargs)

    def evaluation_loop(self, *args, **kwargs) -> EvalLoopOutput:
        # Between steps each process has running statistics of its own; DDP hands out those of the first, which are saved,
        # only with the next step.
        if self.args.world_size > 1:
            for buffer in self.student.buffers():
                torch.distributed.broadcast(buffer, src=0)
        output = super().evaluation_loop(*args, **kwargs)
        prefix = kwargs.pop("metric_key_prefix", "eval")
        for name, network in self.method.networks().items():
            self._evaluated = network
            try:
                metrics = super().evaluation_loop(*args, **kwargs, metric_key_prefix=f"{prefix}_{name}").metrics
            finally:
                self._evaluated = None
            output.metrics.update(metrics)
        return output

    def prediction_step(
        self, model, inputs, prediction_loss_only, ignore_keys=None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        inputs = self._prepare_inputs(inputs)
        labels = inputs["labels"]
        with torch.no_grad():
            if self._evaluated is None:
                logits = model(inputs["pixel_values"])
            else:
                with self.accelerator.autocast():
                    logits = self._evaluated(inputs["pixel_values"])
            loss = cross_entropy_loss(logits, labels)
        return (loss, None, None) if prediction_loss_only else (loss, logits, labels)

    # ---- Saving and loading ----

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the networks as `save_networks` does, and push the student where the run is told to (`push_to_hub`).

        Args:
            output_dir: The folder; that of the run without it.
        """
        if _internal_call:
            super().save_model(output_dir, _internal_call=True)
            return
        self.save_networks(output_dir)
        if self.args.push_to_hub:
            self.push_to_hub(commit_message="Model save")

    def save_networks(self, output_dir: str | None = None) -> None:
        """Write the student, and each network that learned along into a folder of its name beside it.

        Args:
            output_dir: The folder; that of the run without it.
        """
        self.save_model(output_dir, _internal_call=True)
        if self.args.should_save:
            for name, network in self.method.networks().items():
                folder = Path(output_dir or self.args.output_dir) / name
                save_model(network, folder, label_names=self.train_dataset.class_names)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # No training_args.bin: a pickle, and one that would carry a token.
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(
            self.student,
            folder,
            label_names=self.train_dataset.class_names,
        )
        state = self.method.state_dict()
        if state:
            save_tensors(folder / METHOD_NAME, state)

    def _save_checkpoint(self, model, trial) -> None:
        self._finite.check()
        folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with self.account.paused():
            if self.kcd is not None:
                self.kcd.record.merge()
            try:
                if self.args.should_save:
                    folder.mkdir(parents=True, exist_ok=True)
                    write_json(folder / RUN_NAME, self._run_description())
                    self.account.save(folder)
                    if self.kcd is not None:
                        self.kcd.save_state(folder)
                super()._save_checkpoint(model, trial)
            except (OSError, RuntimeError) as error:
                # torch.save reports a full disk as a RuntimeError. What was written so far is no checkpoint.
                if self.args.should_save:
                    shutil.rmtree(folder, ignore_errors=True)
                raise OSError(
                    f"The checkpoint {folder} could not be written and was removed: {error} Free some space or choose another "
                    "output_dir, then resume from the checkpoint before."
                ) from error

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        _load_strictly(self.student, folder / "model.safetensors")
        if self.method.state_dict():
            _load_strictly(self.method, folder / METHOD_NAME)

    def _load_best_model(self) -> None:
        _load_strictly(self.student, Path(self.state.best_model_checkpoint) / "model.safetensors")

    def _run_description(self) -> dict[str, Any]:
        """What a checkpoint and the run that takes it up must share, as plain JSON values."""
        return {
            "student": network_name(self.student),
            "images": repr(self.train_dataset.preprocessing),
            "method": self.args.method,
            "method_options": self.args.method_options,
            "student_layers": self.args.student_layers,
            "teacher_layers": self.args.teacher_layers,
            "seed": self.args.seed,
            "schedule": repr(self.schedule),
            "condensation": None if self.kcd is None else self.kcd.config.to_dict(),
            "soft_labels": None if self.soft_labels is None else self.soft_labels.description(),
            "dataset": self.train_dataset.identity.to_dict(),
        }

    def _provenance(self) -> dict[str, Any]:
        """What made this run, as plain JSON values: it goes into the knowledge mask."""
        return {
            "student": network_name(self.student),
            "teacher": self.teacher_name,
            "method": self.args.method,
            "method_options": self.args.method_options,
            "seed": self.args.seed,
            "versions": library_versions(),
        }


def _knowledge_dataset(
    dataset: datasets.Dataset | KnowledgeDataset,
    args: DistillationConfig,
    training: bool,
    like: KnowledgeDataset | None = None,
) -> KnowledgeDataset:
    if isinstance(dataset, KnowledgeDataset):
        if dataset.training != training:
            raise ValueError(
                f"The {'training' if training else 'evaluation'} set is a KnowledgeDataset with training={dataset.training}: "
                f"make it with training={training}, so that its images are {'' if training else 'not '}augmented."
            )
        return dataset
    return KnowledgeDataset(dataset, None if like is None else like.preprocessing, training=training, seed=args.seed)


def _data_config(preprocessing: Preprocessing) -> dict[str, Any]:
    """What an image must go through before the student, in timm's terms; evaluation takes the centre of larger images."""
    return {
        "input_size": (3, preprocessing.network_size, preprocessing.network_size),
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "interpolation": "bilinear",
        "crop_pct": 0.875 if preprocessing.any_size else 1.0,
    }


def _kcd_callback(callbacks: list[TrainerCallback] | None) -> KCDTrainerCallback | None:
    found = [callback for callback in callbacks or [] if isinstance(callback, KCDTrainerCallback)]
    if len(found) > 1:
        raise ValueError(f"{len(found)} KCDTrainerCallbacks would rewrite one selection: pass one.")
    return found[0] if found else None


def _load_strictly(module: nn.Module, path: Path) -> None:
    tensors, _ = load_tensors(path)
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{path} was saved from another network or method: {error}") from error
