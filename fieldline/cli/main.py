# SPDX-License-Identifier: Apache-2.0
"""Reads the command line, runs the command, and turns errors into one line and an exit code.

Exit codes: 0 done, 1 done with a finding (``doctor``), 2 the input or the arguments are wrong, 130
interrupted. FIELDLINE_DEBUG=1 shows the traceback of an error.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Protocol

import tyro

from .bench import Bench
from .convert import Convert
from .demo import Demo
from .doctor import Doctor
from .evaluate import Evaluate
from .info import Info
from .initialise import Init
from .reconstruct import Reconstruct
from .render import Render

DESCRIPTION = """3D vision and neural fields: photos to splats, pictures of them, and their files.

A first look, with no data and no GPU: fieldline demo"""


class Command(Protocol):
    """What every command is: options as fields, and the work."""

    def run(self) -> int:
        """Does the work and returns the exit code."""
        ...


COMMANDS: dict[str, type[Command]] = {
    "demo": Demo,
    "reconstruct": Reconstruct,
    "init": Init,
    "render": Render,
    "eval": Evaluate,
    "convert": Convert,
    "info": Info,
    "bench": Bench,
    "doctor": Doctor,
}


def parse(arguments: Sequence[str]) -> Command:
    """The command that the arguments describe; exits as argparse does if they describe none."""
    return tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="fieldline",
        description=DESCRIPTION,
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes),
    )


def error_text(error: Exception) -> str:
    """One line about an error; the operating system's own name a file and what happened."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def show_warning(message: Warning | str, *_: object) -> None:
    """A warning as one line on stderr, without the source line it came from."""
    print(f"fieldline: warning: {' '.join(str(message).split())}", file=sys.stderr)


def run(command: Command) -> int:
    """Runs a command; what users can mend becomes one line on stderr and exit code 2."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            return command.run()
    except KeyboardInterrupt:
        print("fieldline: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output, such as `head`, has gone; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError) as error:
        if os.environ.get("FIELDLINE_DEBUG"):
            raise
        print(f"fieldline: error: {error_text(error)}", file=sys.stderr)
        return 2


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point of the ``fieldline`` command.

    Args:
        arguments: Without the program's name; default those of the process.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments == ["--version"]:
        import fieldline

        print(f"fieldline {fieldline.__version__}")
        return 0
    return run(parse(arguments or ["--help"]))
