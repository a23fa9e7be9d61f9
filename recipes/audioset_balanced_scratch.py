"""AudioSet's balanced set from random weights, to measure the gain from ImageNet weights.

    python -m ast_keras.train --recipe audioset_balanced_scratch --set data.path=AUDIOSET \
        --set data.enhanced_labels=balanced_train_data_type1_2_mean.json

Data: as for `audioset_balanced`.
Expected: mAP 0.148; from ImageNet weights 0.347 (Gong et al. 2021, table 2). Not measured here.
Cost: as for `audioset_balanced`, without start weights.

Only the start weights differ from `audioset_balanced`.
On the full set (published mAP 0.366): `--recipe audioset_full --set model.start=random`.
"""

import dataclasses

from ast_keras.recipe import Recipe, load_recipe


def get_recipe() -> Recipe:
    base = load_recipe("audioset_balanced")
    return dataclasses.replace(
        base,
        name="audioset_balanced_scratch",
        model=dataclasses.replace(base.model, start="random"),
    )
