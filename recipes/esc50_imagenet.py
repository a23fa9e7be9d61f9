"""ESC-50 from ImageNet weights: `esc50` without AudioSet, at ten times its learning rate.

    python -m ast_keras.train --recipe esc50_imagenet
    python -m ast_keras.train --recipe esc50_imagenet --all_folds         # the published protocol

Data: as for `esc50`.
Expected: accuracy 0.887 +- 0.007 over five folds (Gong et al. 2021, table 7). Not measured here.
Cost: as for `esc50`; the start weights (351 MB) are downloaded once.
"""

import dataclasses

from ast_keras.recipe import Recipe, load_recipe


def get_recipe() -> Recipe:
    base = load_recipe("esc50")
    return dataclasses.replace(
        base,
        name="esc50_imagenet",
        model=dataclasses.replace(base.model, start="deit_base_384"),
        optimizer=dataclasses.replace(base.optimizer, learning_rate=1e-4),
    )
