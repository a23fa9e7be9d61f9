"""Every test starts from the same random state and precision."""

import gc
import os
import sys

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Keeps what tests fetch and remember apart from the user's."""
    os.environ["AST_KERAS_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["AST_KERAS_MIRROR"] = "http://127.0.0.1:9"  # nobody is there: no test fetches data


@pytest.fixture(autouse=True)
def fresh_keras():
    """Seeds Keras before a test and undoes a change of precision after it, where Keras is used."""
    # Not imported here: most tests of pure modules run in less time than TensorFlow's import.
    keras = sys.modules.get("keras")
    if keras is None:
        yield
        return
    keras.utils.set_random_seed(1)
    policy = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(policy)


@pytest.fixture(autouse=True, scope="module")
def little_to_search():
    """Takes what outlives a module from the objects that Python searches for garbage.

    There are half a million after TensorFlow's import, more with each graph, and the search took a
    fifth of the time of all tests.
    """
    gc.collect()
    gc.freeze()
