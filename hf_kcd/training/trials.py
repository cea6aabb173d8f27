"""How a `DistillationTrainer` with `model_init` starts each training: arguments of a trial, a new student, a new schedule."""

from dataclasses import fields
from typing import Any

from torch import nn
from transformers import Trainer
from transformers.trainer_utils import HPSearchBackend, set_seed

from ..models import label_names
from ..models.configuration import set_images
from .arguments import check_student
from .model import DistillationModel
from .networks import data_config
from .schedules import default_decay_epochs
from .setup import build_model


class TrialsMixin(Trainer):
    """Makes everything that depends on the student and the arguments anew for each training; the teacher stays."""

    # Also before transformers' constructor, which sets it, for the first student of `model_init`.
    is_in_train = False

    def call_model_init(self, trial: Any = None) -> DistillationModel:
        """Make a student with `model_init`, and the method around it."""
        student = super().call_model_init(trial)
        check_student(student)
        if self.train_dataset.with_classes(label_names(student), "student", "training set") is not self.train_dataset:
            advice = "pass train_dataset=KnowledgeDataset(...).with_classes(names), with the names of the student"
            raise ValueError(f"The student of model_init knows its classes in another order than the data: {advice}.")
        model = self._build_model(student)
        if self.is_in_train:
            self._use(model)
        return model

    def _use(self, model: DistillationModel) -> None:
        """Prepare a model for the training that begins."""
        config = model.student.pretrained_cfg
        # What the student knows from now on. Its configuration says so when it becomes a teacher.
        set_images(config, data_config(self.train_dataset.preprocessing))
        config["label_names"] = list(self.train_dataset.class_names)
        self._networks_in_use.enter_context(model.in_use(checkpointing=self.args.activation_checkpointing))

    def _first_model(self, student: nn.Module | str | None) -> DistillationModel:
        """Build what is trained around the student, or around one of `model_init`, which Trainer seeds before each call."""
        if self.model_init is None:
            return self._build_model(student)
        set_seed(self.args.seed)
        return self.call_model_init()

    def _build_model(self, student: nn.Module | str) -> DistillationModel:
        return build_model(student, self._teachers, self.args, self.train_dataset, self.eval_dataset)

    def _begin_trial(self, trial: Any) -> None:
        """Set the arguments of a trial, and what follows from them, before the student is made."""
        args = self.args
        if args.lr_decay_epochs == default_decay_epochs(self.schedule.num_epochs):
            args.lr_decay_epochs = None
        if self.hp_search_backend is not None and trial is not None:
            self._check_names(trial)
            # Trainer does the same again, but only after it has made the network.
            self._hp_search_setup(trial)
        # What a search set, or the user between two trainings, is checked as in a new configuration.
        args.__post_init__()
        self._train_batch_size = args.train_batch_size
        if self._is_plain:
            self.train_dataset.seed = args.seed
        self._schedule_epochs(self.kcd)

    def _check_names(self, trial: Any) -> None:
        """Refuse names that are no field of the configuration, which Trainer would only warn about."""
        names = self.hp_space(trial) if self.hp_search_backend == HPSearchBackend.OPTUNA else trial
        known = {field.name for field in fields(self.args)} | {"wandb"}
        if unknown := [name for name in names if name not in known]:
            advice = "search over its fields, or make a trainer for each trial"
            raise ValueError(f"{', '.join(unknown)} is no field of {type(self.args).__name__}: {advice}.")
