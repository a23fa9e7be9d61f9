"""Test of the backend check on import of `ast_keras.layers`."""

import importlib

import keras
import pytest

import ast_keras.layers
from ast_keras.errors import ArgumentError


def test_other_backends_are_rejected_on_import(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ArgumentError, match=r"KERAS_BACKEND=tensorflow.*Received: backend='jax'"):
        importlib.reload(ast_keras.layers)
