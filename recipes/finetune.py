"""Fine-tuning on your own recordings, from AudioSet or any other weights.

    python -m ast_keras.audit sounds.csv          # reports errors in the data and fitting settings
    python -m ast_keras.train --recipe finetune --set data.path=sounds.csv

Data: a CSV with columns path, labels (separated by `;`) and split or fold; or a folder that
  contains one folder per class. Loss and metric follow from the labels: categorical cross-entropy
  and accuracy if each example has one label, binary cross-entropy and mAP if examples have several
  labels or none.
Expected: depends on the data. With these settings, for clips of half the length, the authors reach
  accuracy 0.956 +- 0.004 on ESC-50 (Gong et al. 2021, table 7: recipe `esc50`). Not measured here:
  the start weights were not available.
Cost: not measured; AST-base with 1,214 tokens per clip, intended for one GPU. The start weights
  (346 MB) are downloaded once.

Where the settings come from:

- *Start weights*: `ast_base_audioset`, or `--set model.start=` with another preset (`deit_small`,
  with `--set optimizer.learning_rate=1e-4`, since images differ more from the task), the folder of
  a saved model, or a weights file. Size, patches, strides, mean and standard deviation are those
  of the start weights.
- *Length*: clips are processed up to 10.24 s, in 1024 frames. Shorter clips cost less with both
  `--set frontend.num_frames=512` and `--set data.clip_seconds=5.12`, and a mask in proportion,
  `--set augment.time_mask_frames=96`. `ast_keras.audit` prints the command that fits the data.
- *Learning rate and schedule*: the authors' for ESC-50 from AudioSet weights: 1e-5, times 0.85
  after each epoch from epoch 5 on, 25 epochs of batches of 48.
- *Rates by layer*, if the start weights are published ones: a new head has 50 times the rate, the
  default (`head_lr`) of the code of CAV-MAE (Gong et al. 2023), and a decay of 0.75 from block to
  block, as in MAE (He et al. 2022) and AudioMAE (Huang et al. 2022; BEiT, Bao et al. 2022, has
  0.65). Those papers use higher base rates; the combination with 1e-5 was not measured with
  `ast_base_audioset`. docs/training.md has a measurement with a small model, in which the head's
  rate helped and the decay did not. `--set optimizer.head_learning_rate=none --set
  optimizer.layer_decay=1` gives the authors' single rate, which the folder of a saved model and
  random weights always have, unless other rates are set.
- *Masks*: up to 3/16 of the bins and of the frames, as the authors use for ESC-50.

For a small model from random weights, where none can be downloaded, use `own_sounds`.
"""

from ast_keras.recipe import Augment, Data, Frontend, Model, Optimizer, Recipe, Train


def get_recipe() -> Recipe:
    return Recipe(
        name="finetune",
        frontend=Frontend(num_frames=1024, mean=None, std=None),
        model=Model(size="auto", start="ast_base_audioset", patch_size=None, strides=None),
        data=Data(clip_seconds=10.24),
        augment=Augment(freq_mask_bins=24, time_mask_frames=192),
        optimizer=Optimizer(
            learning_rate=1e-5,
            head_learning_rate="auto",
            layer_decay="auto",
            decay_start_epoch=5,
            decay_every_epochs=1,
            decay_rate=0.85,
        ),
        train=Train(num_epochs=25, batch_size=48, loss="auto", metric="auto"),
    )
