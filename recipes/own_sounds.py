"""Your own recordings from random weights, with the settings of `esc10`.

    python -m ast_keras.train --recipe own_sounds --set data.path=sounds.csv

Data: a CSV with columns path, labels (separated by `;`) and split or fold; or a folder that
  contains one folder per class. Clips longer than `data.clip_seconds` are cut to their first 5 s.
Expected: depends on the data. A few hundred clips are not many for random weights (see `esc10`).
Cost: as for `esc10`, in proportion to the number of clips.
"""

import dataclasses

from ast_keras.recipe import Recipe, load_recipe


def get_recipe() -> Recipe:
    base = load_recipe("esc10")
    return dataclasses.replace(
        base,
        name="own_sounds",
        data=dataclasses.replace(base.data, kind="auto", subset=None, fold=None),
    )
