"""What the command lines have in common: flags, inputs, exit status, resuming. No TensorFlow.

| module | holds |
|---|---|
| `flags` | `CommandOptions`: a command's flags as the fields of a dataclass; shared flags |
| `inputs` | sound files of a command line, audio warnings, `load_model` |
| `runner` | `run_app`, `run_command`: errors as one line, exit status |
| `resume` | `ResumeLog`: finished items of an interrupted command |
"""
