"""Inspection of a data set before training. Loads TensorFlow only to compute log-mels.

| module | holds |
|---|---|
| `audit` | `audit`: reads a data set, inspects its sounds and returns the report |
| `inspect_sound` | one sound: format, defects, fingerprint, log-mel statistics |
| `survey` | all sounds together: distributions, defects, duplicates |
| `label_checks` | counts of the labels, and labels that are difficult to train or score |
| `advice` | problems, notes and the recommended recipe of a report |
| `text_report` | a report as text |
"""
