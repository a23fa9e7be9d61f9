"""Tables, figures and self-contained HTML pages of results. Loads no TensorFlow or matplotlib.

| module | holds |
|---|---|
| `tables` | text tables: `format_table`, scores by class, scores by model |
| `figures` | matplotlib figures: learning curves, confusion matrix, spectrogram |
| `html` | rendering of the Jinja2 templates in `templates/` |
| `sound` | `Sound`: a waveform with its log-mel spectrogram, as the pages show it |
| `worst_mistakes` | selection and description of the worst mistakes of an evaluation |
| `run_report` | `report.html` of a training run |
| `fold_report` | scores over the folds of a data set, and their `report.html` |
| `explanation_report` | pictures and page of an explanation |
"""
