"""`hf-kcd`: finds the command, and turns errors into one line and an exit code."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from ..errors import unknown_name

# Imported only when it is called: `hf-kcd --help` needs none of them.
_COMMANDS = {
    "demo": "compare a student alone, with KD, with condensed KD, and with random points, on embedded digits (minutes)",
    "distill": "train a student under a teacher, condensing the knowledge with --condense",
    "train-teacher": "train a network alone",
    "evaluate": "top-1 and top-5 accuracy of a network on a data set",
    "methods": "list the distillation methods, what each reads, trains and keeps, and what a step costs",
    "models": "list networks with their parameters, cost, taps and published accuracies",
    "convert": "turn a checkpoint of RepDistiller, mdistiller, SSKD or TAKD into a folder that everything here reads",
    "mask": "show a knowledge mask, or compare several",
    "plot": "draw the plots of a run, or compare runs",
    "card": "write the card of a finished run",
    "push": "publish the student of a run on the Hub, and its mask, with their cards",
}
_DESCRIPTION = "Distil image classifiers with condensed knowledge."
_EPILOG = """examples:
  hf-kcd demo
  hf-kcd distill --config recipes/cifar100/resnet20_resnet8.yaml --output_dir runs/first
  hf-kcd distill --config runs/first/recipe.yaml --output_dir runs/first --resume
  hf-kcd mask show runs/first/mask

hf-kcd COMMAND --help lists the options of a command. HF_KCD_TRACEBACK=1 shows where an error comes from."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `hf-kcd` and exit: 0 when all went well, 2 for what was asked wrongly, 1 for what failed on the way, 130 for Ctrl-C.

    Args:
        arguments: Command-line words; those of the process without it.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _dispatch(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        resumable = arguments[:1] in (["distill"], ["train-teacher"])
        hint = " The same command with --resume continues from the last checkpoint." if resumable else ""
        _fail(f"interrupted.{hint}", 130)
    except BrokenPipeError:
        # Whoever reads has read enough (`hf-kcd mask show … | head`). The interpreter would complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, TypeError, OSError, RuntimeError, ArithmeticError, ImportError) as error:
        if os.environ.get("HF_KCD_TRACEBACK") == "1":
            raise
        _fail(f"error: {error}", 2)
    except Exception as error:
        from .run import RunFailed

        if not isinstance(error, RunFailed) or os.environ.get("HF_KCD_TRACEBACK") == "1":
            raise
        _fail(f"error: {error}", 1)


def _dispatch(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="hf-kcd",
        usage="hf-kcd COMMAND [options]",
        description=_DESCRIPTION,
        epilog="commands:\n" + "\n".join(f"  {name:<15}{text}" for name, text in _COMMANDS.items()) + f"\n\n{_EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    if not arguments or arguments[0] in ("-h", "--help"):
        parser.print_help()
    elif arguments[0] == "--version":
        from .. import __version__

        print(f"hf-kcd {__version__}")
    elif arguments[0] not in _COMMANDS:
        raise unknown_name("command", arguments[0], _COMMANDS)
    else:
        module = importlib.import_module(f".{arguments[0].replace('-', '_')}", __package__)
        module.main(arguments[1:])


def _fail(message: str, code: int) -> None:
    # What was asked wrongly is wrong on every process, so one says it; what failed may have failed on one alone.
    if code == 1 or os.environ.get("RANK", "0") == "0":
        print(f"hf-kcd: {' '.join(message.split())}", file=sys.stderr, flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
