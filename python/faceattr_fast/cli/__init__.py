"""The command ``faceattr``: one module per command, each with ``add_arguments`` and ``run``.

Exit codes: 0, 1 (some items failed), 2 (usage: an argument or a file that it names is wrong).
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from ..errors import TrainingError
from . import (
    bench,
    calibrate,
    doctor,
    evaluate,
    export_onnx,
    fine_tune,
    predict,
    prepare,
    quantize,
    search_depth,
    train,
    tune,
    verify,
)
from .usage import UsageError

__all__ = ["main"]

_COMMANDS = {
    "predict": predict,
    "verify": verify,
    "prepare": prepare,
    "train": train,
    "search-depth": search_depth,
    "fine-tune": fine_tune,
    "evaluate": evaluate,
    "calibrate": calibrate,
    "quantize": quantize,
    "bench": bench,
    "tune": tune,
    "doctor": doctor,
    "export-onnx": export_onnx,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; ``argv`` as in ``sys.argv[1:]``. Returns the exit code and never raises SystemExit."""
    for stream in (sys.stdout, sys.stderr):  # a file name need not be text in the terminal's encoding
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has printed help, version or a usage error
        return stop.code if isinstance(stop.code, int) else 2
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()  # here, where a closed pipe can still be met
        return code
    except UsageError as error:
        print(f"faceattr {arguments.command}: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, such as head, has what it wanted
        # The interpreter flushes stdout once more when it exits and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, TrainingError) as error:  # a full disk, for one
        print(f"faceattr {arguments.command}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # as a shell reports SIGINT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="faceattr",
        description="Face attributes and identity embeddings, fast.",
        epilog="Exit codes: 0, 1 (some items failed), 2 (usage).",
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in _COMMANDS.items():
        summary = (module.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(name, help=summary, description=summary)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


class _Version(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help="print the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from .. import __version__

        print(f"faceattr_fast {__version__}")
        parser.exit()
