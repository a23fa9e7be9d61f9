"""What the command lines have in common: flags, inputs, exit status, resuming. No TensorFlow.

| module | holds |
|---|---|
| `flags` | `CommandOptions`: a command's flags as the fields of a dataclass; shared flags |
| `inputs` | sound files of a command line, standard input, `load_model` |
| `batch` | `process_files`: the loop over many files |
| `windows` | `WindowOptions`: flags of windows and events |
| `streams` | samples of the microphone, or of a file in real time |
| `progress` | files finished, position and speed, on standard error |
| `runner` | `run_app`, `run_command`: errors as one line, exit status |
| `warning_lines` | warnings and log messages as single lines |
| `tensorflow_import` | TensorFlow's import without the lines that it prints on every machine |
| `resume` | `ResumeLog`: finished items of an interrupted command |
"""
