"""How a trainer publishes its student: staged from the run, then pushed in the background, one push after the other."""

import inspect
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import huggingface_hub
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import PushInProgress, logging

from ..artifacts.cards import CARD_NAME, write_card
from ..artifacts.results import write_results
from ..artifacts.run_folder import RECIPE_NAME, RESULTS_NAME, pictures_of, read_run, weights_of
from ..hub import hub_errors
from ..hub.upload import files_to_replace
from .results import run_results

logger = logging.get_logger(__name__)


class PublishingMixin:
    """What `DistillationTrainer` does with the Hub; list it before `transformers.Trainer` among the bases."""

    def push_to_hub(
        self,
        repo_id: str | None = None,
        commit_message: str = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        overwrite: bool = False,
        mask_repo: str | None = None,
        teacher_repo: str | None = None,
        **card: Any,
    ) -> huggingface_hub.CommitInfo | Future | None:
        """Publish the student with its card, results and pictures in one commit.

        Args:
            repo_id: "me/my-student"; default: `hub_model_id`, or the name of `output_dir`. transformers has the message here.
            commit_message, blocking: Title of the commit, and whether to wait for the upload.
            token: Refused; log in instead.
            revision: Branch to commit to, created if it does not exist; default: `hub_revision`.
            private: Whether a new repository is private; default: `hub_private_repo`.
            overwrite: Write over a repository that this package did not write.
            mask_repo, teacher_repo: Repositories to link; default of the teacher's: where it was loaded from.
            **card: Arguments of `create_model_card`.

        Returns:
            The commit with its address; a future of it with `blocking=False`; None on the processes that do not push.

        Raises:
            RuntimeError: When nothing has been trained yet.
            ValueError: For a token or a `repo_id` that is not a repository; other errors as in `push_student`.
        """
        if token is not None:
            raise ValueError("token is not taken: use `hf auth login` or HF_TOKEN, so that no file holds it.")
        if repo_id is not None:
            _check_repository(repo_id)
        # An unknown argument is an error before anything is staged.
        inspect.signature(self.create_model_card).bind(**card)
        card = _card_options(**card)
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if not self.is_world_process_zero():
            return None
        links = {"mask_repo": mask_repo, "teacher_repo": teacher_repo}
        options = {"commit_message": commit_message, "revision": revision, "private": private, "overwrite": overwrite}
        push = partial(self._push, self._stage(), repo_id, **options, **links, **card)
        if not blocking:
            return self._uploads.submit(push)
        # Earlier pushes go first. Then push in this thread, where Ctrl-C works.
        self._uploads.submit(lambda: None).result()
        return push()

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
            language, tags: For the metadata.
            license: The Hub's identifier of the weights' license ("apache-2.0").
            model_name: Name of the student.
            finetuned_from: Repository of the network that the student started from.
            dataset, dataset_tags: The Hub's id of the data set.
            tasks: "image-classification", which the card states anyhow.
            dataset_args: Refused: the card states the data of the run.

        Raises:
            RuntimeError: When nothing has been trained yet.
            ValueError: For another task, and for `dataset_args`.
        """
        # Cards and pictures bring matplotlib, which a training that publishes nothing need not import.
        from ..reporting import student_card

        texts = {"language": language, "license": license, "tags": tags, "model_name": model_name}
        card = _card_options(finetuned_from, dataset_tags, dataset, tasks, dataset_args, **texts)
        if not self.is_world_process_zero():
            return
        with TemporaryDirectory() as folder:
            self._write_run(Path(folder))
            results, recipe = read_run(folder)
        output = Path(self.args.output_dir)
        card = student_card(results, recipe, pictures_of(output), teacher_repo=self._teacher_repository(), **card)
        write_card(output / CARD_NAME, card)

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        with hub_errors(self._repository, "model", None, "written to"):
            super().init_hf_repo(*args, **kwargs)
            # Found before the training, not at its end.
            if self.is_world_process_zero():
                files_to_replace(self.hub_model_id, "model", self.args.hub_revision, self.args.hub_private_repo)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        if self.push_in_progress is not None and not self.push_in_progress.is_done():
            if not self.args.hub_always_push:
                return
        else:
            self.push_in_progress = PushInProgress([])
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        by_steps = self.args.save_strategy == SaveStrategy.STEPS
        place = f"step {self.state.global_step}" if by_steps else f"epoch {int(self.state.epoch)}"
        try:
            folder = self._stage(Path(checkpoint_folder))
        except OSError as error:
            # The disk had room for the checkpoint, but not for the copy.
            _warn_not_pushed(place, error)
            return
        self.push_in_progress.jobs.append(self._uploads.submit(self._push_checkpoint, folder, place))

    def _push_checkpoint(self, folder: TemporaryDirectory, place: str) -> None:
        try:
            self._push(folder, None, commit_message=f"Training in progress, {place}", training=True)
        # Nobody waits for this thread, so an error that is not reported here is lost.
        except Exception as error:
            _warn_not_pushed(place, error)

    @cached_property
    def _uploads(self) -> ThreadPoolExecutor:
        """One push after the other, so that a training step never waits for the network."""
        return ThreadPoolExecutor(max_workers=1, thread_name_prefix="push")

    @property
    def _repository(self) -> str:
        return self.hub_model_id or self.args.hub_model_id or Path(self.args.output_dir).absolute().name

    def _teacher_repository(self) -> str | None:
        """The repository that the teacher was loaded from, as timm records it; None for one that was not read."""
        read = self.teacher is not None and self.method.teacher_reads
        config = self.teacher.pretrained_cfg if read else {}
        return config["hf_hub_id"].partition("@")[0] if config.get("source") == "hf-hub" else None

    def _stage(self, checkpoint: Path | None = None) -> TemporaryDirectory:
        """Copy the publishable files, with the weights of a checkpoint or the current ones."""
        folder = TemporaryDirectory()
        try:
            self._write_run(Path(folder.name))
            if checkpoint is None:
                self._save(folder.name)
            else:
                for name in weights_of(checkpoint):
                    shutil.copyfile(checkpoint / name, Path(folder.name) / name)
        except BaseException:
            folder.cleanup()
            raise
        return folder

    def _write_run(self, folder: Path) -> None:
        """Write the results so far, and the recipe if the run's folder has one."""
        write_results(folder / RESULTS_NAME, run_results(self, data=self.data_name, command=self.command))
        recipe = Path(self.args.output_dir) / RECIPE_NAME
        if recipe.is_file():
            shutil.copyfile(recipe, folder / RECIPE_NAME)

    def _push(
        self,
        folder: TemporaryDirectory,
        repo_id: str | None,
        *,
        revision: str | None = None,
        private: bool | None = None,
        teacher_repo: str | None = None,
        training: bool = False,
        **options: Any,
    ) -> huggingface_hub.CommitInfo:
        """Draw the pictures of a staged run, publish it and remove its folder."""
        from ..publishing import push_student
        from ..reporting import contact_sheet, plot_curves, save_figure

        with folder:
            plots = Path(folder.name) / "plots"
            save_figure(plot_curves(read_run(folder.name)[0]), plots / "curves.png")
            # During training the images may change.
            ends = ("most", "least") if self.kcd is not None and self.kcd.mask is not None and not training else ()
            for end in ends:
                save_figure(contact_sheet(self.train_dataset, self.kcd.mask, which=end), plots / f"{end}_valuable.png")
            return push_student(
                folder.name,
                repo_id or self._repository,
                revision=revision or self.args.hub_revision,
                private=self.args.hub_private_repo if private is None else private,
                teacher_repo=teacher_repo or self._teacher_repository(),
                training=training,
                **options,
            )


def _check_repository(repo_id: str) -> None:
    try:
        huggingface_hub.utils.validate_repo_id(repo_id)
    except huggingface_hub.errors.HFValidationError as error:
        message = (
            f"{repo_id!r} is not a repository such as 'me/my-student'. Pass a message as commit_message={repo_id!r}."
        )
        raise ValueError(message) from error


def _card_options(finetuned_from=None, dataset_tags=None, dataset=None, tasks=None, dataset_args=None, **same):
    """Map transformers' card arguments to ours; the card states the task by itself."""
    if tasks not in (None, "image-classification", ["image-classification"]):
        raise ValueError(f"tasks is {tasks!r}: a student is for 'image-classification'; leave it out.")
    if dataset_args is not None:
        raise ValueError("dataset_args is not taken: the card states the data of the run. Use dataset and tags.")
    return {"base_model": finetuned_from, "dataset": dataset_tags or dataset, **same}


def _warn_not_pushed(place: str, error: Exception) -> None:
    logger.warning(f"The student of {place} was not pushed, and the training goes on. {error}")
