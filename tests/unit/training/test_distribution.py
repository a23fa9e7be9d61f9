"""Distribution: `TF_CONFIG`, start of the workers, rows per device, agreement, precision."""

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
from ast_keras.training import build, distribution
from ast_keras.training.distribution import (
    Workers,
    await_workers,
    distribute,
    fast_precision,
    make_strategy,
    processor_has_bfloat16,
    read_tf_config,
)
from ast_keras.training.resolve import resolve
from ast_keras.training.run_folder import claim_workdir, require_same_work


def free_addresses(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for open_socket in sockets:
        open_socket.close()
    return addresses


# --- TF_CONFIG ---


def test_chief_is_the_first_worker():
    cluster = {"worker": ["b:2", "c:3"], "chief": ["a:1"]}
    text = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 1}})
    assert read_tf_config(text) == (["a:1", "b:2", "c:3"], 2)
    assert read_tf_config("") == ([], 0)


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
def test_malformed_tf_config_is_refused(text, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=r"TF_CONFIG must read .*Received: TF_CONFIG=") as caught:
        make_strategy()
    assert "\n" not in str(caught.value)


def test_cluster_of_one_worker_waits_for_nobody(monkeypatch):
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


# --- Start of the workers ---


def test_workers_wait_for_each_other_in_any_order():
    addresses, servers = free_addresses(3), []

    def start(index):
        await_workers(addresses, index, seconds=30)
        # TensorFlow does this next. The others may look for this worker only now.
        host, port = addresses[index].split(":")
        server = socket.create_server((host, int(port)))
        servers.append(server)

    threads = [threading.Thread(target=start, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(servers) == 3
    for server in servers:
        server.close()


def test_worker_that_does_not_start_is_named():
    addresses = free_addresses(2)
    with pytest.raises(WorkerError, match=f"1 of 2 workers did not start.*{addresses[1]}"):
        await_workers(addresses, 0, seconds=0.1)


def test_port_in_use_is_named():
    addresses = free_addresses(2)
    port = int(addresses[0].split(":")[1])
    with socket.create_server(("", port)), pytest.raises(WorkerError, match="port in TF_CONFIG"):
        await_workers(addresses, 0, seconds=0.1)


# --- Rows ---


class Cluster:
    """Stands for the strategy of one of several workers: calls the input function for it."""

    def __init__(self, worker, workers, devices):
        self.context = tf.distribute.InputContext(workers, worker, devices)

    def distribute_datasets_from_function(self, function):
        return function(self.context)


@pytest.mark.parametrize(
    ("workers", "devices", "parts", "rows"),
    # Five rows on two devices are three and two; on six devices with two parts, twelve rows.
    [(1, 1, 1, 5), (1, 2, 1, 3), (2, 2, 1, 3), (1, 1, 2, 6), (2, 6, 2, 2), (5, 5, 1, 1)],
)
def test_devices_receive_the_rows_of_a_batch_in_order(workers, devices, parts, rows):
    rng = np.random.default_rng(1)
    sounds = [rng.uniform(-1, 1, 20).astype(np.float32) for _ in range(7)]
    split = Split(sources=sounds, targets=[(0,)] * 7)

    def make():
        return Pipeline(split, num_classes=1, clip_samples=20, batch_size=5, training=True)

    received, made = [], []
    for worker in range(workers):
        pipeline = make()
        batch = pipeline.batch
        pipeline.batch = lambda step, rows, batch=batch: made.append(rows) or batch(step, rows)
        received.append(list(distribute(Cluster(worker, workers, devices), pipeline, 1, 3, parts)))
    local = devices // workers
    for step in range(2):
        for name, expected in make().batch(step + 1).items():
            parts_of_step = [e[name] for r in received for e in r[step * local :][:local]]
            assert {len(part) for part in parts_of_step} == {rows}
            found = np.concatenate(parts_of_step)
            np.testing.assert_array_equal(found[:5], expected)
            assert not found[5:].any()
    # Every row is made by one worker only.
    assert sum(len(range(5)[rows]) for rows in made) == 2 * 5


# --- Agreement ---


def test_single_process_agrees_with_itself():
    workers = Workers(tf.distribute.get_strategy())
    assert workers.is_chief
    assert workers.all_equal("anything")
    np.testing.assert_array_equal(workers.gather(3, True), [[3.0, 1.0]])


class OtherWorker:
    """Stands for `Workers` in the second of two processes, whose recipe has another batch size."""

    num_workers, is_chief = 2, False

    def all_equal(self, text):
        return '"train.batch_size": 32' not in text and '"batch_size": 32' not in text

    def gather(self, *numbers):
        return np.array([numbers, numbers], float)

    def wait(self):
        pass


def test_workers_with_different_recipes_are_refused():
    recipe = load_recipe("quickstart")
    with pytest.raises(RecipeError, match="another recipe on one of 2 workers"):
        require_same_work(recipe, "data", OtherWorker())
    require_same_work(override(recipe, ["train.batch_size=16"]), "data", OtherWorker())


def test_workers_with_different_folders_are_refused(tmp_path, monkeypatch):
    recipe = load_recipe("quickstart")
    claim_workdir(recipe, tmp_path / "run", Workers(tf.distribute.get_strategy()))
    monkeypatch.setattr("ast_keras.training.run_folder._FILE_SYSTEM_SECONDS", 0.1)
    with pytest.raises(RecipeError, match="must see one --workdir"):
        claim_workdir(recipe, tmp_path / "run", OtherWorker())


# --- Precision ---


@pytest.mark.parametrize(
    ("text", "able"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512_bf16 amx_tile amx_bf16\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f\nbugs\t\t: amx_bf16\n", False),
        ("", False),
    ],
)
def test_processor_features_are_read_from_linux(tmp_path, text, able):
    (tmp_path / "cpuinfo").write_text(text)
    assert processor_has_bfloat16(tmp_path / "cpuinfo") is able
    assert not processor_has_bfloat16(tmp_path / "absent")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [([(8, 0), (9, 0)], "mixed_bfloat16"), ([(9, 0), (7, 5)], "float32")],
)
def test_all_gpus_must_have_bfloat16(monkeypatch, capabilities, expected):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: range(len(capabilities)))
    details = [{"compute_capability": capability} for capability in capabilities]
    monkeypatch.setattr(tf.config.experimental, "get_device_details", details.__getitem__)
    assert fast_precision() == expected


@pytest.mark.parametrize(("able", "expected"), [(True, "mixed_bfloat16"), (False, "float32")])
def test_automatic_precision_is_the_fast_one(monkeypatch, able, expected):
    monkeypatch.setattr(distribution, "processor_has_bfloat16", lambda: able)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: [])
    recipe = override(load_recipe("quickstart"), ["train.precision=auto", "data.num_train=10"])
    assert resolve(recipe, build.make_dataset(recipe)).train.precision == expected
