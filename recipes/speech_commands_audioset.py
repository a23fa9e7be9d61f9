"""Speech Commands V2 from the AudioSet weights, which the paper finds to hurt.

    python -m ast_keras.train --recipe speech_commands_audioset

Data: as `speech_commands`.
Expected: accuracy 0.9788 +- 0.0003 on the test list (Gong et al. 2021, table 7), less than the
  0.9811 from ImageNet weights. Not measured here.
Cost: as `speech_commands`; the start weights (346 MB) are fetched once.

Of this row only the start is known to differ; everything else is that of `speech_commands`.
"""

import dataclasses

from ast_keras.recipe import Recipe, load_recipe


def get_recipe() -> Recipe:
    base = load_recipe("speech_commands")
    return dataclasses.replace(
        base,
        name="speech_commands_audioset",
        model=dataclasses.replace(base.model, start="ast_base_audioset"),
    )
