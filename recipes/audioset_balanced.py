"""AudioSet's balanced training set, 22 thousand clips, as the authors train on it.

    python -m ast_keras.train --recipe audioset_balanced --set data.path=AUDIOSET \
        --set data.enhanced_labels=balanced_train_data_type1_2_mean.json

Data: as `audioset_full`, of which it needs balanced_train_segments.csv and eval_segments.csv; about
  14 GB. The authors train on the enhanced labels of PSLA (Gong, Chung, Glass 2021,
  https://github.com/YuanGongND/psla); without `data.enhanced_labels` the official ones are used.
Expected: mAP 0.347 +- 0.001 with the weights of epochs 6 to 25 averaged (Gong et al. 2021,
  table 1); the authors' log of one run: best epoch 0.3390, averaged 0.3500. Not measured here.
Cost: not measured; 25 epochs of 22 thousand clips of 1,214 tokens, written for one GPU. The start
  weights (351 MB) are fetched once; the epochs to average take 7 GB.

The variations of the paper's tables 2 to 6 are recipes `audioset_balanced_...`. The start weights
of table 3: `--set model.start=FILE --set model.use_distillation_token=false` with DeiT-B (published
mAP 0.330) or ViT-B (0.320), patch 16, 384 pixels; ViT-L (0.330) is a size that is not built in.
Ensemble-M of table 1 (0.378) has eleven models, which the paper does not list one by one.
"""

from ast_keras.recipe import Augment, Data, Frontend, Model, Optimizer, Recipe, Train


def get_recipe() -> Recipe:
    return Recipe(
        name="audioset_balanced",
        frontend=Frontend(num_frames=1024, mean=-4.2677393, std=4.5689974),
        model=Model(size="ast_base", start="deit_base_384", strides=(10, 10)),
        data=Data(kind="audioset", subset="balanced", skip_unreadable=True),
        augment=Augment(mixup_rate=0.5, freq_mask_bins=48, time_mask_frames=192),
        optimizer=Optimizer(
            learning_rate=5e-5,
            decay_start_epoch=10,
            decay_every_epochs=5,
            decay_rate=0.5,
            warmup_steps=1000,
        ),
        train=Train(
            num_epochs=25,
            batch_size=12,
            loss="binary",
            metric="mean_average_precision",
            final_model="average",
            keep_epochs=(6, 25),
        ),
    )
