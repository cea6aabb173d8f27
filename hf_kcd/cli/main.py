"""`hf-kcd`: finds the command, and turns errors into one line and an exit code."""

import importlib
import io
import os
import shlex
import sys
from collections.abc import Sequence

from ..errors import unknown_name
from .options import RunFailed, RunStopped

# Imported only when called: `hf-kcd --help` needs none of them.
_COMMANDS = {
    "demo": "try everything on small digits: a student alone, with KD, with condensed KD (a minute)",
    "distill": "train a student with a teacher; --condense adds knowledge condensation",
    "train-teacher": "train a network alone",
    "evaluate": "measure top-1 and top-5 accuracy of a network on a data set",
    "recipes": "list the recipes of the papers and ours, or copy one to edit it",
    "methods": "list the distillation methods: what each reads, trains and costs",
    "models": "list networks: parameters, cost, feature maps, published accuracies",
    "convert": "convert a checkpoint of RepDistiller, mdistiller, SSKD or TAKD",
    "mask": "show a knowledge mask, or compare several",
    "plot": "draw the plots of a run, or compare runs",
    "card": "write the model card of a finished run",
    "push": "publish the student of a run, and its mask, on the Hub",
}
_HELP = """usage: hf-kcd COMMAND [options]

Knowledge distillation of image classifiers, with knowledge condensation (KCD).

commands:
{commands}

examples:
  hf-kcd demo
  hf-kcd distill --config cifar100/resnet20_resnet8 --teacher_checkpoint FILE --output_dir runs/first
  hf-kcd distill --config runs/first/recipe.yaml --output_dir runs/first --resume
  hf-kcd mask show runs/first/mask

hf-kcd COMMAND --help lists the options of a command, hf-kcd --version prints the version. HF_KCD_TRACEBACK=1 shows where an
error comes from."""
_ERRORS = (ValueError, TypeError, OSError, RuntimeError, ArithmeticError, ImportError, RunFailed)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `hf-kcd`.

    It exits with 2 for a wrong request, 1 for a run that failed on the way, 75 (EX_TEMPFAIL) for a run that a signal stopped
    behind a complete checkpoint, and 130 for a second Ctrl-C.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        # A terminal without Unicode shows a question mark for a sign that it lacks.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        _dispatch(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        resumable = arguments[:1] in (["distill"], ["train-teacher"])
        hint = " The same command with --resume continues from the last checkpoint." if resumable else ""
        _fail(f"interrupted.{hint}", 130)
    except RunStopped as stop:
        again = arguments if "--resume" in arguments else [*arguments, "--resume"]
        _fail(f"interrupted: {stop}. Continue with: {shlex.join(['hf-kcd', *again])}", os.EX_TEMPFAIL)
    except BrokenPipeError:
        # The reader has seen enough (`hf-kcd mask show … | head`); without this the interpreter complains at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except _ERRORS as error:
        if os.environ.get("HF_KCD_TRACEBACK") == "1":
            raise
        _fail(f"error: {error}", 1 if isinstance(error, RunFailed) else 2)


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP.format(commands="\n".join(f"  {name:<15}{text}" for name, text in _COMMANDS.items())))
    elif arguments[0] == "--version":
        from .. import __version__

        print(f"hf-kcd {__version__}")
    elif arguments[0] not in _COMMANDS:
        raise unknown_name("command", arguments[0], _COMMANDS)
    else:
        importlib.import_module(f".{arguments[0].replace('-', '_')}", __package__).main(arguments[1:])


def _fail(message: str, code: int) -> None:
    # A wrong request is wrong on every process, so one reports it; a run may have failed on one process alone.
    if code == 1 or os.environ.get("RANK", "0") == "0":
        print(f"hf-kcd: {' '.join(message.split())}", file=sys.stderr, flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
