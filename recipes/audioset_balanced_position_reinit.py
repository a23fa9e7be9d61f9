"""AudioSet's balanced set with new position embeddings: ImageNet's weights without its places.

    python -m ast_keras.train --recipe audioset_balanced_position_reinit --set data.path=AUDIOSET \
        --set data.enhanced_labels=balanced_train_data_type1_2_mean.json

Data: as `audioset_balanced`.
Expected: mAP 0.305, interpolated 0.347 (Gong et al. 2021, table 4). Not measured here.
Cost: as `audioset_balanced`.

Nothing but the start of the position embeddings differs from `audioset_balanced`. All are
drawn anew, with a deviation of 0.02, those of the two special tokens too.
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
