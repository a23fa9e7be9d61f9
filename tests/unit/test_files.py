"""Tests of atomic writing: a file is replaced completely or left unchanged."""

import json
import math
import threading

import pytest

from ast_keras.files import replacing, replacing_folder, write_json, write_text


def test_replacing_moves_the_finished_file_into_place(tmp_path):
    target = tmp_path / "new" / "folder" / "note.tar.gz"
    with replacing(target) as part:
        assert part.parent == target.parent
        assert part.suffix == target.suffix
        assert part.name.startswith(".")
        part.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_replacing_keeps_the_old_file_after_an_error(error, tmp_path):
    target = tmp_path / "note.txt"
    target.write_text("old")

    def fail_in_the_middle():
        with replacing(target) as part:
            part.write_text("ha")
            raise error

    with pytest.raises(type(error)):
        fail_in_the_middle()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_replacing_fails_if_nothing_was_written(tmp_path):
    target = tmp_path / "note.txt"
    target.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(target):
        pass
    assert target.read_text() == "old"


def test_replacing_folder_replaces_all_files(tmp_path):
    target = tmp_path / "model"
    for name in ("first.txt", "second.txt"):
        with replacing_folder(target) as part:
            (part / name).write_text(name)
    assert [path.name for path in target.iterdir()] == ["second.txt"]
    assert list(tmp_path.iterdir()) == [target]


def test_replacing_folder_keeps_the_old_folder_after_an_error(tmp_path):
    target = tmp_path / "model"
    with replacing_folder(target) as part:
        (part / "note.txt").write_text("old")

    def fail_in_the_middle():
        with replacing_folder(target) as part:
            (part / "note.txt").write_text("incomplete")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_in_the_middle()
    assert (target / "note.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_write_text_writes_utf8_and_replaces(tmp_path):
    target = str(tmp_path / "note.txt")
    write_text(target, "a longer text before")
    write_text(target, "Grüße, 犬\n")
    assert (tmp_path / "note.txt").read_bytes() == "Grüße, 犬\n".encode()


def test_write_text_from_two_threads_never_mixes(tmp_path):
    target = tmp_path / "note.txt"
    texts = ["a" * 100_000, "b" * 100_000]
    seen, errors = set(), []

    def write(text):
        try:
            for _ in range(20):
                write_text(target, text)
                seen.add(target.read_text())
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert seen <= set(texts)
    assert list(tmp_path.iterdir()) == [target]


def test_write_json_writes_non_finite_numbers_as_null(tmp_path):
    value = {"auc": math.nan, "ap": [1.5, math.inf, (-math.inf, 2)], "name": "x", "n": 3, "b": True}
    write_json(tmp_path / "scores.json", value)
    text = (tmp_path / "scores.json").read_text()

    def refuse(constant):
        raise AssertionError(constant)

    expected = {"auc": None, "ap": [1.5, None, [None, 2]], "name": "x", "n": 3, "b": True}
    assert json.loads(text, parse_constant=refuse) == expected
    assert text.endswith("}\n")


def test_write_json_keeps_the_old_file_if_a_value_has_an_unsupported_type(tmp_path):
    target = tmp_path / "scores.json"
    write_json(target, {"a": 1})
    with pytest.raises(TypeError):
        write_json(target, {"a": object()})
    assert json.loads(target.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [target]
