"""Entry point of the commands: prints an error that the user can fix as one line, and exits."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn, TypeVar

from absl import app, flags, logging

from ast_keras.commands.flags import CommandOptions, define_flags, options_from_flags
from ast_keras.commands.tensorflow_import import quiet_tensorflow_import
from ast_keras.commands.warning_lines import warning_lines
from ast_keras.errors import AstKerasError, CommandError
from ast_keras.training.interruption import Interrupted

_LINGER_SECONDS = 2.0
_EXTRAS = ("matplotlib", "official", "orbit")

# The flags are defined on behalf of the module that calls `run_app`.
flags.disclaim_key_flags()

_Arguments = TypeVar("_Arguments")
_Options = TypeVar("_Options", bound=CommandOptions)


def run_app(main: Callable[[_Options], int], kind: type[_Options]) -> NoReturn:
    """Parses the command line, calls `main` with its options and exits with the returned status.

    An error in the command line is printed in one line, followed by the usage, before `main` is
    called: nothing has imported TensorFlow by then. The status is 1.

    Args:
        main: Function that takes the options and returns the exit status.
        kind: The subclass of `CommandOptions` that declares the flags.
    """
    define_flags(kind)

    def parse(argv: list[str]) -> _Options:
        try:
            return options_from_flags(kind, flags.FLAGS(argv)[1:])
        except (flags.Error, CommandError) as error:
            print(f"error: {_one_line(error)}\nusage: {kind.usage}", file=sys.stderr)
            sys.exit(1)

    app.run(lambda options: exit_process(run_command(main, options)), flags_parser=parse)
    raise AssertionError("app.run does not return")


def run_command(main: Callable[[_Arguments], int], options: _Arguments) -> int:
    """Calls the main function of a command and returns its exit status.

    `AstKerasError` and OSError, which the user can fix, are printed as one line on standard error,
    and so are warnings. Any other exception is a defect of the program and propagates.

    Args:
        main: Function that takes the options and returns the exit status.
        options: The argument of `main`.

    Returns:
        The status that `main` returns; 1 after an error; 128 + N after signal N.
    """
    # Hides the log messages of TensorFlow and Orbit.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # TensorFlow reads this when it is loaded. By default oneDNN is off on processors without
    # AVX-512, although these gain most from it: it reuses memory from one operation to the next.
    # Memory that is freed and allocated again is cleared by the operating system, which takes time.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    logging.set_verbosity(logging.WARNING)
    try:
        with warning_lines(), quiet_tensorflow_import():
            return main(options)
    except Interrupted as stop:
        print(f"Stopped by {stop}; saved. Run the same command to resume.")
        return 128 + stop.signal_number
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        print(f"error: {error.name} is missing: pip install 'ast-keras[train]'", file=sys.stderr)
        return 1
    except (AstKerasError, OSError) as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 1


def exit_process(status: int) -> NoReturn:
    """Exits with a status. Distributed workers (`TF_CONFIG`) skip the shutdown of the interpreter.

    Python would delete TensorFlow's objects one by one, which takes seconds to minutes. Meanwhile
    the other workers would report that this worker is lost.

    Args:
        status: Exit status of the process.
    """
    if "TF_CONFIG" not in os.environ:
        sys.exit(status)
    logging.flush()
    sys.stdout.flush()
    sys.stderr.flush()
    if status != 1:
        # The other workers may still be receiving this worker's last message, the request to stop.
        time.sleep(_LINGER_SECONDS)
    os._exit(status)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
