"""AudioSet's balanced set from ImageNet weights with new, random position embeddings.

    python -m ast_keras.train --recipe audioset_balanced_position_reinit --set data.path=AUDIOSET \
        --set data.enhanced_labels=balanced_train_data_type1_2_mean.json

Data: as for `audioset_balanced`.
Expected: mAP 0.305; with resized embeddings 0.347 (Gong et al. 2021, table 4). Not measured here.
Cost: as for `audioset_balanced`.

Only the initial position embeddings differ from `audioset_balanced`. All of them are drawn with a
standard deviation of 0.02, including those of the two special tokens.
"""

import dataclasses

from ast_keras.recipe import Recipe, load_recipe


def get_recipe() -> Recipe:
    base = load_recipe("audioset_balanced")
    return dataclasses.replace(
        base,
        name="audioset_balanced_position_reinit",
        model=dataclasses.replace(base.model, position_resize="reinit"),
    )
