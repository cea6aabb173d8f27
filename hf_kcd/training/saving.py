"""How a `DistillationTrainer` saves: networks that timm and transformers load, and checkpoints that resume to the bit."""

import shutil
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..artifacts.environment import library_versions
from ..artifacts.files import advice_on, is_write_error, load_tensors, save_tensors, write_json
from ..models import label_names, network_name, save_model
from .checkpoint import METHOD_NAME, RUN_NAME, STATE_NAME, check_run, check_whole, last_whole_checkpoint
from .networks import data_config
from .results import optimization


class SavingMixin(Trainer):
    """Saves student, method, cost and condenser. Never a pickle that others should load, never a token."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the networks as `save_networks` does, and push the student with `push_to_hub=True`."""
        if _internal_call:
            super().save_model(output_dir, _internal_call=True)
            return
        self.save_networks(output_dir)
        if self.args.push_to_hub:
            self.push_to_hub(commit_message="Model save")

    def save_networks(self, output_dir: str | None = None) -> None:
        """Write the student, and each network that learned along into a folder of its name beside it."""
        self.save_model(output_dir, _internal_call=True)
        if self.args.should_save:
            for name, network in self.method.networks().items():
                self._save_network(network, Path(output_dir or self.args.output_dir) / name)

    def _save_network(self, network: nn.Module, folder: Path) -> None:
        images = data_config(self.train_dataset.preprocessing)
        # One that came with weights keeps its own order of the classes.
        save_model(network, folder, label_names(network) or self.train_dataset.class_names, images)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # No training_args.bin: it is a pickle, and it would carry a token.
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self._save_network(self.student, folder)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)
        if state := self.method.state_dict():
            save_tensors(folder / METHOD_NAME, state)

    def _save_checkpoint(self, model, trial) -> None:
        self._finite.check()
        folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with self.cost.paused():
            if self.kcd is not None:
                self.kcd.condenser.record.merge()
            try:
                if self.args.should_save:
                    folder.mkdir(parents=True, exist_ok=True)
                    write_json(folder / RUN_NAME, self._run_description())
                    self.cost.save(folder)
                    if self.kcd is not None:
                        save_tensors(folder / STATE_NAME, self.kcd.condenser.state_dict())
                super()._save_checkpoint(model, trial)
            except (OSError, RuntimeError) as error:
                # A part of a checkpoint is not a checkpoint.
                if self.args.should_save:
                    shutil.rmtree(folder, ignore_errors=True)
                if not is_write_error(error):
                    raise
                advice = advice_on(error, self.args.output_dir) or "Choose another output_dir."
                said = f"The checkpoint {folder} could not be written and was removed: {error}".removesuffix(
                    advice
                ).strip()
                raise OSError(f"{said} {advice} Then resume from the checkpoint before.") from error

    def _checkpoint_to_resume(self, resume_from_checkpoint: str | Path | bool | None) -> str | None:
        """Return the checkpoint to resume from, whole and of this run."""
        if not resume_from_checkpoint:
            return None
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_whole_checkpoint(self.args.output_dir)
        else:
            check_whole(resume_from_checkpoint)
        check_run(resume_from_checkpoint, self._run_description())
        return str(resume_from_checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        _load_strictly(self.student, folder / "model.safetensors")
        if self.method.state_dict():
            _load_strictly(self.method, folder / METHOD_NAME)

    def _load_best_model(self) -> None:
        _load_strictly(self.student, Path(self.state.best_model_checkpoint) / "model.safetensors")

    def _run_description(self) -> dict[str, Any]:
        """Return what a checkpoint and the run that resumes it must share, as plain JSON values."""
        names = ("method", "method_options", "student_layers", "teacher_layers", "seed", "data_seed")
        dataset = self.train_dataset
        # Condensation has a state of its own, and starts from all points.
        selection = (
            f"{len(dataset)} points with the SHA-256 {dataset.selection_digest()}" if self.kcd is None else None
        )
        return {
            "student": network_name(self.student),
            "images": repr(dataset.preprocessing),
            **{name: getattr(self.args, name) for name in names},
            "schedule": repr(self.schedule),
            "condensation": None if self.kcd is None else self.kcd.config.to_dict(),
            "soft_labels": None if self.soft_labels is None else self.soft_labels.description(),
            "teachers": [network_name(one) for one in self.teachers] if self.method.teacher_reads else [],
            # A checkpoint's optimizer keeps its learning rate and decay, whatever the arguments say.
            **optimization(self.args),
            "dataset": dataset.identity.to_dict(),
            "seed of the augmentation": dataset.seed,
            "selection": selection,
        }

    def _provenance(self) -> dict[str, Any]:
        """Return what made this run, as plain JSON values for the knowledge mask."""
        return {
            "student": network_name(self.student),
            "teacher": self.teacher_name if self.method.teacher_reads else None,
            **{name: getattr(self.args, name) for name in ("method", "method_options", "seed")},
            "versions": library_versions(),
        }


def _load_strictly(module: nn.Module, path: Path) -> None:
    tensors, _ = load_tensors(path)
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{path} was saved from another network or method: {error}") from error
