"""What a trainer publishes of its student: put together out of the run, and pushed one after the other in the background."""

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from transformers import Trainer
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import PushInProgress, logging

from ..artifacts.cards import write_card
from ..artifacts.results import write_results
from ..artifacts.run_folder import RECIPE_NAME, RESULTS_NAME, pictures_of, read_run
from ..hub.errors import hub_errors
from ..publishing import push_student
from ..reporting import contact_sheet, plot_curves, save_figure, student_card
from .results import run_results

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

logger = logging.get_logger(__name__)


class Publisher:
    """Pushes the student of a trainer, and writes its card.

    Args:
        trainer: The trainer, on the process that writes.
    """

    def __init__(self, trainer: Trainer) -> None:
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


class PublishingMixin(Trainer):
    """Publishes the student of a trainer."""

    def push_to_hub(
        self,
        repo_id: str | None = None,
        commit_message: str = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        mask_repo: str | None = None,
        teacher_repo: str | None = None,
        **card: Any,
    ) -> "CommitInfo | Future | None":
        """Publish the student with its card, its results and its pictures, in one commit.

        Args:
            repo_id: Such as "me/my-student"; `hub_model_id` without it, or the name of `output_dir` under the user's own.
            commit_message: Of the commit.
            blocking: Wait for the upload.
            token: Refused: log in instead.
            revision: Branch to commit to, made where it does not exist; `hub_revision` without it.
            private: Whether a new repository is private; `hub_private_repo` without it.
            mask_repo: Repository of the knowledge mask, to be linked.
            teacher_repo: Repository of the teacher, to be linked; known of a teacher that was loaded from the Hub.
            **card: What `create_model_card` takes.

        Returns:
            The commit, with its address; a future of it with `blocking=False`; None on the processes that do not push.

        Raises:
            RuntimeError: When nothing has been trained yet.
            ValueError: For a token, or what may not be published.
            PermissionError: Without a login, or without the right to write.
            ConnectionError: When the Hub could not be reached or broke off.
        """
        if token is not None:
            raise ValueError(
                "token would have to be written down: log in with `hf auth login` or set HF_TOKEN instead."
            )
        card = _card_options(**card)
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if not self.is_world_process_zero():
            return None
        return self._publisher.push(
            repo_id,
            blocking,
            commit_message=commit_message,
            revision=revision,
            private=private,
            mask_repo=mask_repo,
            teacher_repo=teacher_repo,
            **card,
        )

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Write the student's card as README.md into the run's folder.

        Args:
            language: For the metadata.
            license: Identifier of the weights' licence, as the Hub has them ("apache-2.0").
            tags: More tags for the metadata.
            model_name: What the student is called.
            finetuned_from: Repository of the network that the student started from.
            tasks: Known: image classification.
            dataset_tags: The same as `dataset`.
            dataset: The Hub's id of the data set.
            dataset_args: Known: the card names the data set alone.

        Raises:
            RuntimeError: When nothing has been trained yet.
        """
        if not self.is_world_process_zero():
            return
        card = _card_options(language, license, tags, model_name, finetuned_from, tasks, dataset_tags, dataset)
        write_card(Path(self.args.output_dir) / "README.md", self._publisher.card(**card))

    @cached_property
    def _publisher(self) -> "Publisher":
        return Publisher(self)

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        with hub_errors(self._publisher.repository, "model", None, "written to"):
            super().init_hf_repo(*args, **kwargs)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        if self.push_in_progress is not None and not self.push_in_progress.is_done():
            if not self.args.hub_always_push:
                return
        else:
            self.push_in_progress = PushInProgress([])
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.args.save_strategy == SaveStrategy.STEPS:
            place = f"step {self.state.global_step}"
        else:
            place = f"epoch {int(self.state.epoch)}"
        push = self._publisher.push_checkpoint(checkpoint_folder, place)
        if push is not None:
            self.push_in_progress.jobs.append(push)


def _card_options(
    language: Any = None,
    license: Any = None,
    tags: Any = None,
    model_name: Any = None,
    finetuned_from: Any = None,
    tasks: Any = None,
    dataset_tags: Any = None,
    dataset: Any = None,
    dataset_args: Any = None,
) -> dict[str, Any]:
    """Name what a card of ours takes out of what transformers offers for one of its own."""
    return {
        "language": language,
        "license": license,
        "tags": tags,
        "model_name": model_name,
        "base_model": finetuned_from,
        "dataset": dataset_tags or dataset,
    }
