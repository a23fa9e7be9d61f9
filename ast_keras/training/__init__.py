"""Training a recipe: one run, or one for each fold, resumable at any step.

| module | holds |
|---|---|
| `run` | `Run`: the training loop of one run |
| `folds` | `run_folds`: cross-validation |
| `context` | `RunContext`: the objects of a prepared run |
| `resolve` | fills in the settings that a recipe leaves open |
| `frontend` | makes the filterbank and warns if it does not fit |
| `build` | makes data set, pipelines, model, optimizer and loss from a recipe |
| `trainer` | `ASTTrainer`: one training step on any number of devices |
| `optimizers`, `schedules` | `AdamL2`; learning-rate schedules |
| `distribution` | devices, workers (`TF_CONFIG`), fast precision |
| `checkpoints` | saving and restoring the state of a run |
| `run_folder` | the work directory: ownership, locking, kept epochs |
| `history` | the best epoch, and whether a run has ended |
| `result` | the final model, its scores and the report |
| `progress`, `interruption` | lines for the user; signals |
"""
