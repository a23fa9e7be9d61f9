"""AudioSet's two million clips as the authors train on them: the released model's recipe.

    python -m ast_keras.train --recipe audioset_full --set data.path=AUDIOSET

Data: `data.path` is a folder with the official segment lists (balanced_train_segments.csv,
  unbalanced_train_segments.csv, eval_segments.csv) and, there or at `data.clips_path`, the clips;
  or a list in the JSON form of the authors. The clips cannot be fetched: they are on YouTube. Clips
  that are not there are counted and left out. At 16 kHz, 16 bits, two million take about 650 GB.
Expected: mAP 0.459 +- 0.000 with the weights of epochs 1 to 5 averaged, 0.448 +- 0.001 for the last
  epoch (Gong et al. 2021, table 1). The authors' log of one run: 0.4153, 0.4349, 0.4476, 0.4490,
  0.4486 at epochs 1 to 5, averaged 0.4590. Not measured here.
Cost: not measured; 5 epochs of two million clips of 1,214 tokens, written for several GPUs. The
  start weights (351 MB) are fetched once; the epochs to average take 1.7 GB.

Clips are drawn with replacement, those with rare labels more often; the partners of mixup are not.
Other rows of the paper's tables, none measured here:

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
        frontend=Frontend(num_frames=1024, mean=-4.2677393, std=4.5689974),
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
