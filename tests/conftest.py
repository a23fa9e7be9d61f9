"""Every test starts from the same random state and precision."""

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
