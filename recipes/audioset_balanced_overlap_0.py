"""AudioSet's balanced set with patches that do not overlap, which gives fewer tokens.

    python -m ast_keras.train --recipe audioset_balanced_overlap_0 --set data.path=AUDIOSET \
        --set data.enhanced_labels=balanced_train_data_type1_2_mean.json

Data: as for `audioset_balanced`.
Expected: mAP 0.336; with an overlap of 6, 0.347 (Gong et al. 2021, table 5 and 6). Not measured
  here.
Cost: less than `audioset_balanced`: 512 patches instead of 1,212.

Only the step between patches differs from `audioset_balanced`.
On the full set (published mAP 0.451): `--recipe audioset_full --set model.strides=16,16`.
"""

import dataclasses

from ast_keras.recipe import Recipe, load_recipe


def get_recipe() -> Recipe:
    base = load_recipe("audioset_balanced")
    return dataclasses.replace(
        base,
        name="audioset_balanced_overlap_0",
        model=dataclasses.replace(base.model, strides=(16, 16)),
    )
