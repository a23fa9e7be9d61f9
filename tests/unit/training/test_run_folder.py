"""The work directory: which settings must stay the same, and which epochs are kept."""

import pytest

from ast_keras.errors import EvaluationError
from ast_keras.training.run_folder import delete_unfinished_epochs, epoch_models, kept_epochs


@pytest.fixture
def workdir(tmp_path):
    for name in ("02", "03", "05", ".04-half"):
        (tmp_path / "epochs" / name).mkdir(parents=True)
    return tmp_path


def test_kept_epochs_are_sorted_by_number(workdir):
    assert list(kept_epochs(workdir)) == [2, 3, 5]
    assert kept_epochs(workdir / "nowhere") == {}


def test_unfinished_epochs_are_deleted(workdir):
    delete_unfinished_epochs(workdir, last_epoch=3)
    assert sorted(path.name for path in (workdir / "epochs").iterdir()) == ["02", "03"]


def test_epoch_models_names_the_epochs_that_are_missing(workdir):
    assert epoch_models(str(workdir), "2-3") == [str(workdir / "epochs" / n) for n in ("02", "03")]
    with pytest.raises(EvaluationError, match=r"not kept these epochs: 1, 4; it has 2-3, 5\."):
        epoch_models(str(workdir), "1-5")
    for text in ("3-2", "0-2", "3", "a-b"):
        with pytest.raises(EvaluationError, match="FIRST-LAST, such as 6-25"):
            epoch_models(str(workdir), text)
