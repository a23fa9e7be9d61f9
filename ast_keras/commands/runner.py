"""What the command lines share: a mistake of the user ends in one line, not in a traceback."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from absl import logging

from ast_keras.errors import AstKerasError
from ast_keras.training.interruption import Interrupted

_LINGER_SECONDS = 2.0
_EXTRAS = ("matplotlib", "official", "orbit")


def run_command(main: Callable[[list[str]], int], argv: list[str]) -> int:
    """Runs a command's main function and returns its exit status, 1 after an error.

    `AstKerasError` and OSError, which the user can fix, are printed as one line on standard error;
    anything else is a defect and keeps its traceback.
    """
    # TensorFlow's and Orbit's notes would bury the command's own lines.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Read when TensorFlow is loaded. It is off on processors without AVX-512, where it helps most:
    # with it, memory is kept from one operation to the next instead of being cleared by the kernel.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    logging.set_verbosity(logging.WARNING)
    try:
        return main(argv)
    except Interrupted as stop:
        print(f"Stopped by {stop}; saved. The same command goes on from there.")
        return 128 + stop.signal_number
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        print(f"error: {error.name} is missing: pip install 'ast-keras[train]'", file=sys.stderr)
        return 1
    except (AstKerasError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


def exit_process(status: int) -> NoReturn:
    """Ends the process with this status; one of several workers (`TF_CONFIG`) without cleaning up.

    Python would delete TensorFlow's objects one by one, which takes seconds to minutes. Other
    workers meanwhile take this one for lost.
    """
    if "TF_CONFIG" not in os.environ:
        sys.exit(status)
    logging.flush()
    sys.stdout.flush()
    sys.stderr.flush()
    if status != 1:
        # The others may still be receiving what this one said last, that all stop.
        time.sleep(_LINGER_SECONDS)
    os._exit(status)
