"""AudioSet's two million clips with the authors' settings, the recipe of the released model.

    python -m ast_keras.train --recipe audioset_full --set data.path=AUDIOSET

Data: `data.path` is a folder with the official segment lists (balanced_train_segments.csv,
  unbalanced_train_segments.csv, eval_segments.csv) and the clips, or a list in the authors' JSON
  format. `data.clips_path` is the folder of the clips if it is another one. The clips cannot be
  downloaded from here: they are on YouTube. Missing clips are counted and left out. At 16 kHz and
  16 bits, two million clips take about 650 GB.
Expected: mAP 0.459 +- 0.000 with the weights of epochs 1 to 5 averaged, 0.448 +- 0.001 for the last
  epoch (Gong et al. 2021, table 1). The authors' log of one run: 0.4153, 0.4349, 0.4476, 0.4490,
  0.4486 at epochs 1 to 5, averaged 0.4590. Not measured here.
Cost: not measured; 5 epochs of two million clips of 1,214 tokens, intended for several GPUs. The
  start weights (351 MB) are downloaded once. The epochs to average take 1.7 GB of disk.

Clips are drawn with replacement, those with rare labels more often; partners for mixup are drawn
uniformly. Other rows of the paper's tables, none measured here:

| published mAP | table | add |
|---|---|---|
| 0.366 | 2, no pretraining | --set model.start=random |
| 0.451 | 5, no overlap | --set model.strides=16,16 |
| 0.456 | 5, overlap 2 | --set model.strides=14,14 |
| 0.455 | 5, overlap 4 | --set model.strides=12,12 |
| 0.475 | 1, Ensemble-S | --set seed=1, 2 and 3; then `ast_keras.evaluate` with three --model |
| 0.485 | 1, Ensemble-M | the same three and the runs with strides 12, 14 and 16: six --model |
"""

from ast_keras.recipe import Augment, Data, Frontend, Model, Optimizer, Recipe, Train


def get_recipe() -> Recipe:
    return Recipe(
        name="audioset_full",
        frontend=Frontend(num_frames=1024),
        model=Model(size="ast_base", start="deit_base_384", strides=(10, 10)),
        data=Data(kind="audioset", subset="full", sampling="weighted", skip_unreadable=True),
        augment=Augment(mixup_rate=0.5, freq_mask_bins=48, time_mask_frames=192),
        optimizer=Optimizer(
            learning_rate=1e-5,
            decay_start_epoch=2,
            decay_every_epochs=1,
            decay_rate=0.5,
            warmup_steps=1000,
        ),
        train=Train(
            num_epochs=5,
            batch_size=12,
            loss="binary",
            metric="mean_average_precision",
            final_model="average",
            keep_epochs=(1, 5),
        ),
    )
