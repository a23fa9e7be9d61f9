"""Two worker processes train as one does, survive a kill and a stop, and resume to the bit."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from ast_keras.presets.loading import from_preset
from ast_keras.recipe import load_recipe, override
from ast_keras.training.progress import Progress
from ast_keras.training.run import Run
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.slow  # a minute and a half
# Thirteen examples in batches of four, eleven scored in batches of five: the last batches, and the
# rows of the second worker, are partly padding. All masks are on. A checkpoint after every step.
SETTINGS = [
    *("data.num_train=13", "data.num_validation=11", "data.num_test=10", "data.clip_seconds=0.5"),
    *("frontend.num_frames=48", "model.size=ast_test", "model.num_layers=1"),
    *("augment.mixup_rate=0.5", "augment.noise=true", "augment.roll_frames=10"),
    *("augment.freq_mask_bins=20", "augment.time_mask_frames=8", "optimizer.warmup_steps=2"),
    *("train.num_epochs=5", "train.batch_size=4", "train.eval_batch_size=5"),
    *("train.steps_per_loop=1", "train.checkpoint_minutes=0.000001"),
]
TOGETHER = [*SETTINGS, "train.accumulate_steps=2"]
COMMAND = ["-m", "ast_keras.train", "--recipe=quickstart", *(f"--set={s}" for s in TOGETHER)]
# Two runs in one process, as over folds.
SCRIPT = f"""
import sys
from ast_keras.commands.runner import exit_process, run_command
from ast_keras.recipe import load_recipe, override

def main(folders):
    from ast_keras.training.run import Run
    for folder in folders:
        Run.prepare(override(load_recipe("quickstart"), {TOGETHER}), folder).train()
    return 0

exit_process(run_command(main, sys.argv[1:]))
"""
LOST_SECONDS = 90  # TensorFlow takes 10 to 30 seconds to notice, on a busy machine


class Pair:
    """Two workers, started by the same Python arguments."""

    def __init__(self, addresses, logs, *arguments):
        self.logs = logs
        logs.mkdir()
        self.processes = []
        for index in range(2):
            task = {"type": "worker", "index": index}
            config = json.dumps({"cluster": {"worker": addresses}, "task": task})
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CONFIG": config}
            with open(logs / f"out{index}", "w") as out, open(logs / f"err{index}", "w") as err:
                command = [sys.executable, *map(str, arguments)]
                self.processes.append(
                    subprocess.Popen(command, env=environment, cwd=logs, stdout=out, stderr=err)
                )

    def signal_at(self, step, folder, number):
        """Sends the second worker a signal once the run has the checkpoint of a step."""
        end = time.monotonic() + 200
        while last_checkpoint(folder) < step:
            assert [p.poll() for p in self.processes] == [None, None], self.read("err0")
            assert time.monotonic() < end, self.read("err0")
            time.sleep(0.02)
        self.processes[1].send_signal(number)

    def wait(self, seconds=200):
        try:
            return [process.wait(seconds) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()

    def read(self, name):
        return (self.logs / name).read_text()


def last_checkpoint(folder):
    """Returns the number of the newest checkpoint: steps plus epochs."""
    found = [re.search(r"ckpt-(\d+)\.index", p.name) for p in folder.glob("checkpoints/*.index")]
    return max((int(match[1]) for match in found), default=0)


def weights(folder):
    return from_preset(folder / "last").get_weights()


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The run of one process on one device."""
    folder = tmp_path_factory.mktemp("single") / "run"
    recipe = override(load_recipe("quickstart"), SETTINGS)
    Run.prepare(recipe, folder, progress=Progress(quiet=True)).train()
    return folder


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """A whole run of two workers; then a run that is killed, resumed, stopped and resumed."""
    folder = tmp_path_factory.mktemp("workers")
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for open_socket in sockets:
        open_socket.close()
    found = {"whole": folder / "whole", "run": folder / "run"}
    pair = Pair(addresses, folder / "killed", "-c", SCRIPT, folder / "whole", folder / "run")
    pair.signal_at(4, folder / "run", signal.SIGKILL)
    found["killed"] = pair, pair.wait(LOST_SECONDS)
    # The very same ports: a scheduler starts the same command again.
    command = [*COMMAND, f"--workdir={folder / 'run'}"]
    step = last_checkpoint(folder / "run")
    pair = Pair(addresses, folder / "stopped", *command)
    pair.signal_at(step + 4, folder / "run", signal.SIGTERM)
    found["stopped"] = pair, pair.wait()
    pair = Pair(addresses, folder / "finished", *command)
    found["finished"] = pair, pair.wait()
    return found


def test_two_accumulating_workers_train_and_score_as_one_process(single, history):
    # Sums in another order over twenty steps: seen 3.2e-6.
    for ours, theirs in zip(weights(history["whole"]), weights(single), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    ours, theirs = (
        json.loads((f / "evaluation.json").read_text()) for f in (history["whole"], single)
    )
    assert ours["scores"] == theirs["scores"]
    for row, expected in zip(ours["per_class"], theirs["per_class"], strict=True):
        # A threshold lies between two scores, which the weights above move: seen 4e-9.
        assert row.pop("threshold") == pytest.approx(expected.pop("threshold"), abs=1e-6)
        assert row == expected  # with the number of examples


def test_lost_worker_ends_the_other_with_one_line(history):
    pair, codes = history["killed"]
    assert codes == [1, -signal.SIGKILL]
    lines = [line for line in pair.read("err0").splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "Another worker was lost" in lines[0]
    assert "goes on from the last checkpoint" in lines[0]
    assert "Traceback" not in pair.read("err0")


def test_sigterm_to_one_worker_saves_and_stops_all(history):
    pair, codes = history["stopped"]
    assert codes == [143, 143]
    assert "going on at step" in pair.read("out0")
    assert all("Stopped by SIGTERM; saved." in pair.read(name) for name in ("out0", "out1"))


def test_killed_and_stopped_workers_end_in_the_same_weights(history):
    pair, codes = history["finished"]
    assert codes == [0, 0], pair.read("err0")
    for ours, theirs in zip(weights(history["run"]), weights(history["whole"]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    csv = [(history[name] / "epochs.csv").read_text() for name in ("run", "whole")]
    assert csv[0] == csv[1]
