"""Who the workers are, how they find each other, and which rows each of them makes."""

import json
import socket
import threading

import numpy as np
import pytest
import tensorflow as tf

from ast_keras.data.dataset import Split
from ast_keras.data.pipeline import Pipeline
from ast_keras.errors import RecipeError, WorkerError
from ast_keras.recipe import load_recipe, override
from ast_keras.training.distribution import (
    Workers,
    _read_tf_config,
    await_workers,
    distribute,
    make_strategy,
)
from ast_keras.training.run_folder import claim_workdir, require_same_work


def free_addresses(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for open_socket in sockets:
        open_socket.close()
    return addresses


# --- TF_CONFIG ---


def test_the_chief_is_the_first_worker():
    cluster = {"worker": ["b:2", "c:3"], "chief": ["a:1"]}
    text = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 1}})
    assert _read_tf_config(text) == (["a:1", "b:2", "c:3"], 2)
    assert _read_tf_config("") == ([], 0)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"cluster": {"worker": ["a:1", "b:2"]}}',
        '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 2}}',
        '{"cluster": {"worker": ["a", "b:2"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:0", "b:2"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"ps": ["a:1"], "worker": ["b:2"]}, "task": {"type": "ps", "index": 0}}',
    ],
)
def test_a_malformed_tf_config_is_refused(text, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=r"TF_CONFIG must read .*Received: TF_CONFIG=") as caught:
        make_strategy()
    assert "\n" not in str(caught.value)


def test_a_cluster_of_one_needs_no_meeting(monkeypatch):
    task = {"type": "worker", "index": 0}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": ["a:1"]}, "task": task}))
    assert make_strategy().num_replicas_in_sync == 1


def test_workers_after_other_use_of_tensorflow_are_refused(monkeypatch):
    monkeypatch.setattr("ast_keras.training.distribution.await_workers", lambda *_: None)
    tf.constant(1.0) + 1.0
    task = {"type": "worker", "index": 0}
    cluster = {"worker": free_addresses(2)}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    with pytest.raises(ValueError, match="called too late"):
        make_strategy()


# --- Meeting ---


def test_workers_meet_whoever_comes_first():
    addresses, met = free_addresses(3), []

    def come(index):
        await_workers(addresses, index, seconds=30)
        # As TensorFlow does next: the others may only now look for this one.
        host, port = addresses[index].split(":")
        server = socket.create_server((host, int(port)))
        met.append(server)

    threads = [threading.Thread(target=come, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(met) == 3
    for server in met:
        server.close()


def test_a_worker_that_does_not_come_is_named():
    addresses = free_addresses(2)
    with pytest.raises(WorkerError, match=f"1 of 2 workers did not start.*{addresses[1]}"):
        await_workers(addresses, 0, seconds=0.1)


def test_a_taken_port_is_named():
    addresses = free_addresses(2)
    port = int(addresses[0].split(":")[1])
    with socket.create_server(("", port)), pytest.raises(WorkerError, match="port in TF_CONFIG"):
        await_workers(addresses, 0, seconds=0.1)


# --- Rows ---


class Cluster:
    """Calls the function for the input of one of several workers, as a strategy there does."""

    def __init__(self, worker, workers, devices):
        self.context = tf.distribute.InputContext(workers, worker, devices)

    def distribute_datasets_from_function(self, function):
        return function(self.context)


@pytest.mark.parametrize(
    ("workers", "devices", "parts", "rows"),
    # Five rows on two devices are three and two, on six with two parts twelve, mostly filling.
    [(1, 1, 1, 5), (1, 2, 1, 3), (2, 2, 1, 3), (1, 1, 2, 6), (2, 6, 2, 2), (5, 5, 1, 1)],
)
def test_devices_share_the_rows_of_a_batch_in_order(workers, devices, parts, rows):
    rng = np.random.default_rng(1)
    sounds = [rng.uniform(-1, 1, 20).astype(np.float32) for _ in range(7)]
    split = Split(sources=sounds, targets=[(0,)] * 7)

    def make():
        return Pipeline(split, num_classes=1, clip_samples=20, batch_size=5, training=True)

    shares, made = [], []
    for worker in range(workers):
        pipeline = make()
        batch = pipeline.batch
        pipeline.batch = lambda step, rows, batch=batch: made.append(rows) or batch(step, rows)
        shares.append(list(distribute(Cluster(worker, workers, devices), pipeline, 1, 3, parts)))
    local = devices // workers
    for step in range(2):
        for name, expected in make().batch(step + 1).items():
            parts_of_step = [e[name] for s in shares for e in s[local * step : local * (step + 1)]]
            assert {len(part) for part in parts_of_step} == {rows}
            found = np.concatenate(parts_of_step)
            np.testing.assert_array_equal(found[:5], expected)
            assert not found[5:].any()
    # Nobody makes a row of another's.
    asked = [len(range(5)[rows]) for rows in made]
    assert sum(asked) == 2 * 5


# --- Agreement ---


def test_one_process_agrees_with_itself():
    workers = Workers(tf.distribute.get_strategy())
    assert workers.is_chief
    assert workers.all_equal("anything")
    np.testing.assert_array_equal(workers.gather(3, True), [[3.0, 1.0]])


class Other:
    """The view of a worker beside one with another recipe, and with a folder of its own."""

    count, is_chief = 2, False

    def same(self, text):
        return '"train.batch_size": 32' not in text and '"batch_size": 32' not in text

    def gather(self, *numbers):
        return np.array([numbers, numbers], float)

    def wait(self):
        pass


def test_workers_with_different_recipes_are_refused():
    recipe = load_recipe("quickstart")
    with pytest.raises(RecipeError, match="another recipe on one of 2 workers"):
        require_same_work(recipe, "data", Other())
    require_same_work(override(recipe, ["train.batch_size=16"]), "data", Other())


def test_workers_with_different_folders_are_refused(tmp_path, monkeypatch):
    recipe = load_recipe("quickstart")
    claim_workdir(recipe, tmp_path / "run", Workers(tf.distribute.get_strategy()))
    monkeypatch.setattr("ast_keras.training.run_folder._SHARED_SECONDS", 0.1)
    with pytest.raises(RecipeError, match="must see one --workdir"):
        claim_workdir(recipe, tmp_path / "run", Other())
