"""AudioSet's balanced set from random weights, in 32x32 patches without overlap.

    python -m ast_keras.train --recipe audioset_balanced_patch_32x32 --set data.path=AUDIOSET \
        --set data.enhanced_labels=balanced_train_data_type1_2_mean.json

Data: as for `audioset_balanced`.
Expected: mAP 0.139 (Gong et al. 2021, table 6). Not measured here.
Cost: less than `audioset_balanced`: 128 patches instead of 1,212, and no start weights.

Only the start weights and the patches differ from `audioset_balanced`.
"""

import dataclasses

from ast_keras.recipe import Recipe, load_recipe


def get_recipe() -> Recipe:
    base = load_recipe("audioset_balanced")
    return dataclasses.replace(
        base,
        name="audioset_balanced_patch_32x32",
        model=dataclasses.replace(
            base.model, start="random", patch_size=(32, 32), strides=(32, 32)
        ),
    )
