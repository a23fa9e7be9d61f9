"""AudioSet's balanced set from random weights, in 16x16 patches without overlap.

    python -m ast_keras.train --recipe audioset_balanced_patch_16x16 --set data.path=AUDIOSET \
        --set data.enhanced_labels=balanced_train_data_type1_2_mean.json

Data: as for `audioset_balanced`.
Expected: mAP 0.143 (Gong et al. 2021, table 6). Not measured here.
Cost: less than `audioset_balanced`: 512 patches instead of 1,212, and no start weights.

Only the start weights and the patches differ from `audioset_balanced`.
With ImageNet weights (published mAP 0.336) this is `audioset_balanced_overlap_0`.
"""

import dataclasses

from ast_keras.recipe import Recipe, load_recipe


def get_recipe() -> Recipe:
    base = load_recipe("audioset_balanced")
    return dataclasses.replace(
        base,
        name="audioset_balanced_patch_16x16",
        model=dataclasses.replace(
            base.model, start="random", patch_size=(16, 16), strides=(16, 16)
        ),
    )
