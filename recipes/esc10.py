"""ESC-10 from random weights, with settings for little data.

    python -m ast_keras.train --recipe esc10 --set data.path=ESC-50-master --set data.fold=1

Data: the ten-class subset of ESC-50, 400 clips of 5 s, folds 1 to 5
  (https://github.com/karolpiczak/ESC-50). Partial copies of the data set can be used.
Expected: accuracy on fold 1 0.711 +- 0.010 at the last epoch, 0.744 +- 0.025 at the best (three
  seeds, 306 of the 400 clips). For comparison: 0.55 with the authors' settings, 0.817 with logistic
  regression on log-mels.
Cost: 80 epochs of 246 clips, 4 to 7 minutes on two shared cores.

recipes/README.md explains the differences from the authors' settings (`esc10_original`).
"""

from ast_keras.recipe import Augment, Data, Frontend, Model, Optimizer, Recipe, Train


def get_recipe() -> Recipe:
    return Recipe(
        name="esc10",
        frontend=Frontend(num_frames=512, mean=-6.6268077, std=5.358466),
        model=Model(size="ast_nano", patch_size=(128, 4), strides=(128, 4)),
        data=Data(kind="esc50", subset="esc10", fold=1, clip_seconds=5.0),
        augment=Augment(
            mixup_rate=0.5,
            freq_mask_bins=24,
            time_mask_frames=96,
            shift_seconds=2.5,
            gain_db=6.0,
        ),
        optimizer=Optimizer(
            learning_rate=1e-3,
            beta_1=0.9,
            l2=0.0,
            weight_decay=0.05,
            schedule="warmup_cosine",
            warmup_steps=150,
        ),
        train=Train(num_epochs=80, batch_size=16),
    )
