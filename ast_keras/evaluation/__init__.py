"""Scores of models: metrics, evaluation of a data set, ensembles and averages of weights.

| module | holds |
|---|---|
| `metrics` | accuracy, average precision, AUC and d' in NumPy: `evaluate_predictions` |
| `keras_metrics` | `MeanAveragePrecision` and `DPrime` for `model.compile` |
| `evaluator` | `ASTEvaluator`: scores of a model on every example of a data set |
| `ensemble` | scores of several models and of the mean of their probabilities |
| `averaging` | one model with the mean of several models' weights |
"""
