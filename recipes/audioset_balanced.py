"""AudioSet's balanced training set, 22 thousand clips, with the authors' settings.

    python -m ast_keras.train --recipe audioset_balanced --set data.path=AUDIOSET \
        --set data.enhanced_labels=balanced_train_data_type1_2_mean.json

Data: as for `audioset_full`, but only balanced_train_segments.csv and eval_segments.csv are needed;
  about 14 GB. The authors train on the enhanced labels of PSLA (Gong, Chung, Glass 2021,
  https://github.com/YuanGongND/psla). Without `data.enhanced_labels` the official ones are used.
Expected: mAP 0.347 +- 0.001 with the weights of epochs 6 to 25 averaged (Gong et al. 2021,
  table 1). The authors' log of one run: best epoch 0.3390, averaged 0.3500. Not measured here.
Cost: not measured; 25 epochs of 22 thousand clips of 1,214 tokens, intended for one GPU. The start
  weights (351 MB) are downloaded once. The epochs to average take 7 GB of disk.

The variations in the paper's tables 2 to 6 are the recipes `audioset_balanced_...`. Other start
weights of table 3: `--set model.start=FILE --set model.use_distillation_token=false` with DeiT-B
(published mAP 0.330) or ViT-B (0.320), patch size 16, 384 pixels. ViT-L (0.330) is not a size of
this package. Ensemble-M of table 1 (0.378) has eleven models, which the paper does not list.
"""

from ast_keras.recipe import Augment, Data, Frontend, Model, Optimizer, Recipe, Train


def get_recipe() -> Recipe:
    return Recipe(
        name="audioset_balanced",
        frontend=Frontend(num_frames=1024),
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
