"""ESC-10 from random weights with the authors' ESC-50 settings, a baseline for `esc10`.

    python -m ast_keras.train --recipe esc10_original --set data.path=ESC-50-master

Data: as for `esc10`.
Expected: with the authors' own code, on 306 of the 400 clips, fold 1, one seed: accuracy 0.267,
  0.367, 0.50, 0.517, 0.50, 0.55 at epochs 1, 5, 10, 15, 20, 25; best 0.583.
  Measured here: 0.233, 0.400, 0.467, 0.583, 0.550, 0.550 at the same epochs; best 0.600 (one seed).
Cost: 5.5 M parameters, 602 tokens: 2.9 clips/s on two free cores, about 40 minutes.
"""

import dataclasses

from ast_keras.recipe import Recipe, load_recipe


def get_recipe() -> Recipe:
    base = load_recipe("esc50")
    return dataclasses.replace(
        base,
        name="esc10_original",
        model=dataclasses.replace(base.model, size="ast_tiny", start="random"),
        data=dataclasses.replace(base.data, subset="esc10"),
        optimizer=dataclasses.replace(base.optimizer, learning_rate=1e-4),
        train=dataclasses.replace(base.train, batch_size=16),
    )
