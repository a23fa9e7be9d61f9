"""ESC-50 as the authors train it: AST-base, started from the AudioSet weights.

    python -m ast_keras.train --recipe esc50
    python -m ast_keras.train --recipe esc50 --all_folds                  # the published protocol

Data: ESC-50, 2,000 clips of 5 s in 50 classes, folds 1 to 5 (https://github.com/karolpiczak/ESC-50),
  fetched once (645 MB). `data.path` is a copy of one's own, the folder with `audio/` and
  `meta/esc50.csv`; `data.fold` the fold tested on.
Expected: accuracy 0.956 +- 0.004 over five folds (Gong et al. 2021, table 7). The authors' log,
  mean of the folds: 0.7925 at epoch 1, 0.909 at 2, 0.9495 at 5, 0.9575 at 22, which is the best,
  and 0.956 at 25. Not measured here: neither the data nor the start weights were at hand.
Cost: not measured; 25 epochs of 1,600 clips with 602 tokens, written for one GPU. The start
  weights (346 MB) are fetched once.

There is no validation split, so the best epoch is chosen on the folds that are tested, as the
authors do: both it and the last epoch are reported, trust the last.

`esc50_imagenet` starts from ImageNet weights; `--set model.start=random` trains from random weights
(which needs more data than ESC-50 has: see `esc10`), `--set model.start=FOLDER` from a model saved
here.
"""

from ast_keras.recipe import Augment, Data, Frontend, Model, Optimizer, Recipe, Train


def get_recipe() -> Recipe:
    return Recipe(
        name="esc50",
        frontend=Frontend(num_frames=512, mean=-6.6268077, std=5.358466),
        model=Model(size="ast_base", start="ast_base_audioset"),
        data=Data(kind="esc50", fold=1, clip_seconds=5.0),
        augment=Augment(freq_mask_bins=24, time_mask_frames=96),
        optimizer=Optimizer(
            learning_rate=1e-5, decay_start_epoch=5, decay_every_epochs=1, decay_rate=0.85
        ),
        train=Train(num_epochs=25, batch_size=48, loss="categorical"),
    )
