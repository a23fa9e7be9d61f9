"""AudioSet's balanced set with ImageNet's position embeddings from the nearest place.

    python -m ast_keras.train --recipe audioset_balanced_position_nearest --set data.path=AUDIOSET \
        --set data.enhanced_labels=balanced_train_data_type1_2_mean.json

Data: as `audioset_balanced`.
Expected: mAP 0.346, bilinear 0.347 (Gong et al. 2021, table 4). Not measured here.
Cost: as `audioset_balanced`.

Nothing but the start of the position embeddings differs from `audioset_balanced`.
"""

import dataclasses

from ast_keras.recipe import Recipe, load_recipe


def get_recipe() -> Recipe:
    base = load_recipe("audioset_balanced")
    return dataclasses.replace(
        base,
        name="audioset_balanced_position_nearest",
        model=dataclasses.replace(base.model, position_resize="nearest"),
    )
