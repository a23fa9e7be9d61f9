"""Speech Commands V2 from AudioSet weights, which is worse than ImageNet weights in the paper.

    python -m ast_keras.train --recipe speech_commands_audioset

Data: as for `speech_commands`.
Expected: accuracy 0.9788 +- 0.0003 on the test list (Gong et al. 2021, table 7), less than the
  0.9811 from ImageNet weights. Not measured here.
Cost: as for `speech_commands`; the start weights (346 MB) are downloaded once.

Only the start weights are known to differ from `speech_commands` in this row of the table; all
other settings are taken from there.
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
