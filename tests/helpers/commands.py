"""Commands as a user runs them, in this process (fast) or in one of their own."""

import contextlib
import importlib
import io
import os
import subprocess
import sys

from ast_keras.commands.flags import parse_options
from ast_keras.commands.runner import run_command
from tests.helpers.paths import ROOT

# What a command computes can differ in the last bit from what a test process does: it sets
# TF_ENABLE_ONEDNN_OPTS before it imports TensorFlow.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}


def run_in_process(name, *arguments):
    """Calls the main function of a command; returns exit status, output and errors."""
    module = importlib.import_module(f"ast_keras.{name}")
    options = parse_options(module.Options, map(str, arguments))
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = run_command(module.main, options)
    return status, output.getvalue(), errors.getvalue()


def start(name, *arguments, **settings):
    """Starts a command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", f"ast_keras.{name}", *map(str, arguments)],
        env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **settings,
    )  # fmt: skip


def run(name, *arguments, **settings):
    """Runs a command in a process of its own; returns exit status, output and errors."""
    process = start(name, *arguments, **settings)
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def assert_one_line_error(status, errors, *parts):
    """Asserts that a command failed with one line, which contains the parts."""
    assert status == 1, errors
    assert "Traceback" not in errors
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    for part in parts:
        assert part in line, line
