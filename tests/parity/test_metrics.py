"""Metrics against stored values of the authors' evaluation (scikit-learn, per class)."""

import numpy as np
import pytest

from ast_keras.evaluation.metrics import evaluate_predictions
from tests.helpers.paths import GOLDENS


def test_evaluate_predictions_matches_stored_values():
    with np.load(GOLDENS / "metrics.npz") as file:
        golden = dict(file)
    evaluation = evaluate_predictions(golden["pred"], golden["target"], multi_label=True)
    # Sums of at most 200 float64 terms below 1, in another order: seen 2.3e-16.
    tolerance = {"rtol": 0, "atol": 7e-16}
    np.testing.assert_allclose(evaluation.average_precision, golden["ap"], **tolerance)
    np.testing.assert_allclose(evaluation.auc, golden["auc"], **tolerance)
    assert evaluation.mean_average_precision == pytest.approx(
        float(golden["mAP"]), rel=0, abs=7e-16
    )
    assert evaluation.mean_auc == pytest.approx(float(golden["mAUC"]), rel=0, abs=7e-16)
    # The inverse normal distribution of another library adds a rounding of its own: seen 6.7e-16.
    assert evaluation.d_prime == pytest.approx(float(golden["d_prime"]), rel=0, abs=2e-15)
