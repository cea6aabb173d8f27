"""What a trainer publishes of its student: put together out of the run, and pushed one after the other in the background."""

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from ..artifacts.results import write_results
from ..artifacts.run_folder import RECIPE_NAME, RESULTS_NAME, pictures_of, read_run
from ..publishing import push_student
from ..reporting import contact_sheet, plot_curves, save_figure, student_card
from .results import run_results

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

    from .trainer import DistillationTrainer

logger = logging.get_logger(__name__)


class Publisher:
    """Pushes the student of a trainer, and writes its card.

    Args:
        trainer: The trainer, on the process that writes.
    """

    def __init__(self, trainer: "DistillationTrainer") -> None:
        self.trainer = trainer
        # One after the other, and in the background: a step never waits for the network.
        self._uploads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="push")

    @property
    def repository(self) -> str:
        """Where the student goes when nobody says where: `hub_model_id`, or the name of `output_dir` under the user's own."""
        args = self.trainer.args
        return self.trainer.hub_model_id or args.hub_model_id or Path(args.output_dir).absolute().name

    def push(
        self,
        repo_id: str | None,
        blocking: bool,
        *,
        revision: str | None,
        private: bool | None,
        teacher_repo: str | None,
        **options: Any,
    ) -> "CommitInfo | Future[CommitInfo]":
        """Push the student as it is now; arguments as of `DistillationTrainer.push_to_hub`."""
        args = self.trainer.args
        push = partial(
            self._push,
            self._stage(),
            repo_id or self.repository,
            private=args.hub_private_repo if private is None else private,
            revision=revision or args.hub_revision,
            teacher_repo=teacher_repo or self._teacher_repository(),
            **options,
        )
        if not blocking:
            return self._uploads.submit(push)
        # What is on its way goes first; then here, where Ctrl-C ends it.
        self._uploads.submit(lambda: None).result()
        return push()

    def push_checkpoint(self, checkpoint: str | Path, place: str) -> Future | None:
        """Push the student of a checkpoint in the background, while the training goes on.

        Args:
            checkpoint: Its folder.
            place: How far the training was, in words.

        Returns:
            What is waited for at the end; None where there was no room for the copy.
        """
        try:
            folder = self._stage(Path(checkpoint))
        except OSError as error:
            # Room is missing for the copy, not for the checkpoint.
            self._say_not_pushed(place, error)
            return None
        return self._uploads.submit(self._push_on_the_way, folder, place)

    def card(self, **card: Any) -> str:
        """Write the card of the run as it is now, with the pictures that its folder has.

        Args:
            **card: What `student_card` takes.
        """
        with TemporaryDirectory() as folder:
            self._write_run(Path(folder))
            results, recipe = read_run(folder)
        pictures = pictures_of(self.trainer.args.output_dir)
        return student_card(results, recipe, pictures, teacher_repo=self._teacher_repository(), **card)

    def _push_on_the_way(self, folder: TemporaryDirectory, place: str) -> None:
        args = self.trainer.args
        try:
            self._push(
                folder,
                self.repository,
                commit_message=f"Training in progress, {place}",
                private=args.hub_private_repo,
                revision=args.hub_revision,
                teacher_repo=self._teacher_repository(),
                training=True,
            )
        # Nobody waits for this thread, so an error that is not told here is lost.
        except Exception as error:
            self._say_not_pushed(place, error)

    @staticmethod
    def _say_not_pushed(place: str, error: Exception) -> None:
        logger.warning(f"The student of {place} was not pushed, and the training goes on. {error}")

    def _push(self, folder: TemporaryDirectory, repo_id: str, **options: Any) -> "CommitInfo":
        """Draw the pictures of what was staged, publish it and remove the folder."""
        kcd = self.trainer.kcd
        with folder:
            plots = Path(folder.name) / "plots"
            save_figure(plot_curves(read_run(folder.name)[0]), plots / "curves.png")
            # While the training goes on, its images may be changing.
            if kcd is not None and kcd.mask is not None and not options.get("training"):
                for which in ("most", "least"):
                    sheet = contact_sheet(self.trainer.train_dataset, kcd.mask, which=which)
                    save_figure(sheet, plots / f"{which}_valuable.png")
            return push_student(folder.name, repo_id, **options)

    def _stage(self, checkpoint: Path | None = None) -> TemporaryDirectory:
        """Copy what is published of the run into a folder of its own: weights of a checkpoint, or those of now."""
        folder = TemporaryDirectory()
        try:
            self._write_run(Path(folder.name))
            if checkpoint is None:
                self.trainer._save(folder.name)
            else:
                for name in ("config.json", "model.safetensors"):
                    shutil.copyfile(checkpoint / name, Path(folder.name) / name)
        except BaseException:
            folder.cleanup()
            raise
        return folder

    def _write_run(self, folder: Path) -> None:
        """Write the results so far, and the recipe where the run's folder has one."""
        trainer = self.trainer
        write_results(folder / RESULTS_NAME, run_results(trainer, data=trainer.data_name, command=trainer.command))
        recipe = Path(trainer.args.output_dir) / RECIPE_NAME
        if recipe.is_file():
            shutil.copyfile(recipe, folder / RECIPE_NAME)

    def _teacher_repository(self) -> str | None:
        """Name the repository that the teacher was loaded from, as timm notes it."""
        teacher = self.trainer.teacher
        config = {} if teacher is None else teacher.pretrained_cfg
        return config["hf_hub_id"].partition("@")[0] if config.get("source") == "hf-hub" else None
