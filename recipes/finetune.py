"""Any sounds and any start weights: fine-tuning on recordings of your own.

    python -m ast_keras.audit sounds.csv          # what is wrong, and which settings fit
    python -m ast_keras.train --recipe finetune --set data.path=sounds.csv

Data: a CSV with columns path, labels (separated by `;`) and split or fold; or, with
  `--set data.kind=folders`, a folder that holds a folder for each class. Loss and metric follow the
  labels: categorical cross-entropy and accuracy where each sound has one, binary cross-entropy and
  mAP where sounds have several or none.
Expected: depends on the data. With these settings for clips of half the length the authors reach
  accuracy 0.956 +- 0.004 on ESC-50 (Gong et al. 2021, table 7: recipe `esc50`). Not measured here:
  the start weights were not at hand.
Cost: not measured; AST-base with 1,212 tokens a clip, written for one GPU. The start weights
  (346 MB) are fetched once.

What comes from where:

- *The start*: `ast_base_audioset`, or `--set model.start=` another preset (`deit_small`, with
  `--set optimizer.learning_rate=1e-4`, as images are further away), a saved model's folder, or a
  file. Size, patches, strides, mean and std are those of the start.
- *Length*: clips are heard up to 10.24 s in 1024 frames. Shorter ones cost less with both
  `--set frontend.num_frames=512` and `--set data.clip_seconds=5.12`, and a mask in proportion,
  `--set augment.time_mask_frames=96`; `ast_keras.audit` prints the command that fits the data.
- *Rate and schedule*: the authors' for ESC-50 from AudioSet weights: 1e-5, times 0.85 from epoch 5
  on, 25 epochs of batches of 48.
- *Masks*: up to 3/16 of the bins and of the frames, as the authors have for ESC-50.

A small model from random weights, where none can be fetched, is `own_sounds`.
"""

from ast_keras.recipe import Augment, Data, Frontend, Model, Optimizer, Recipe, Train


def get_recipe() -> Recipe:
    return Recipe(
        name="finetune",
        frontend=Frontend(num_frames=1024, mean=None, std=None),
        model=Model(size="auto", start="ast_base_audioset", patch_size=None, strides=None),
        data=Data(kind="manifest", clip_seconds=10.24),
        augment=Augment(freq_mask_bins=24, time_mask_frames=192),
        optimizer=Optimizer(
            learning_rate=1e-5, decay_start_epoch=5, decay_every_epochs=1, decay_rate=0.85
        ),
        train=Train(num_epochs=25, batch_size=48, loss="auto", metric="auto"),
    )
