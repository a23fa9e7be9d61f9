"""The resume log survives an interruption and refuses results of other flags."""

import pytest

from ast_keras.commands.resume import ResumeLog, file_key, weights_key
from ast_keras.errors import CommandError


def test_log_survives_a_truncated_line_and_refuses_other_settings(tmp_path):
    log = ResumeLog(tmp_path / "out.json", {"top": 1})
    log.add("a", {"x": 1})
    with open(log.path, "a") as file:
        file.write('{"item": "b", "resu')
    again = ResumeLog(tmp_path / "out.json", {"top": 1})
    assert again.done == {"a": {"x": 1}}
    again.add("c", {"x": 2})
    assert ResumeLog(tmp_path / "out.json", {"top": 1}).done == {"a": {"x": 1}, "c": {"x": 2}}
    with pytest.raises(CommandError, match="with other flags"):
        ResumeLog(tmp_path / "out.json", {"top": 2})
    again.close()
    assert list(tmp_path.iterdir()) == []


def test_keys_change_with_the_files(tmp_path):
    path = tmp_path / "task.weights.h5"
    assert file_key(str(path)) == str(path)
    assert weights_key(str(tmp_path)) == []
    path.write_bytes(b"1")
    first = file_key(str(path)), weights_key(str(tmp_path))
    path.write_bytes(b"12")
    assert file_key(str(path)) != first[0]
    assert weights_key(str(tmp_path)) != first[1] != []
