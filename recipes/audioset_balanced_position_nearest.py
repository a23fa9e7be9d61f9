"""AudioSet's balanced set with nearest-neighbour resizing of ImageNet's position embeddings.

    python -m ast_keras.train --recipe audioset_balanced_position_nearest --set data.path=AUDIOSET \
        --set data.enhanced_labels=balanced_train_data_type1_2_mean.json

Data: as for `audioset_balanced`.
Expected: mAP 0.346; with bilinear resizing 0.347 (Gong et al. 2021, table 4). Not measured here.
Cost: as for `audioset_balanced`.

Only the initial position embeddings differ from `audioset_balanced`.
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
