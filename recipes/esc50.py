"""ESC-50 with the authors' settings: AST-base from AudioSet weights.

    python -m ast_keras.train --recipe esc50
    python -m ast_keras.train --recipe esc50 --all_folds                  # the published protocol

Data: ESC-50, 2,000 clips of 5 s in 50 classes, folds 1 to 5 (https://github.com/karolpiczak/ESC-50),
  downloaded once (645 MB). To use your own copy, set `data.path` to the folder with `audio/` and
  `meta/esc50.csv`. `data.fold` is the fold to test on.
Expected: accuracy 0.956 +- 0.004 over five folds (Gong et al. 2021, table 7). The authors' log,
  mean of the folds: 0.7925 at epoch 1, 0.909 at 2, 0.9495 at 5, 0.9575 at 22, which is the best,
  and 0.956 at 25. Not measured here: neither the data nor the start weights were available.
Cost: not measured; 25 epochs of 1,600 clips with 602 tokens, intended for one GPU. The start
  weights (346 MB) are downloaded once.

There is no validation split. The best epoch is therefore chosen on the test fold, as the authors
do. Best and last epoch are both reported; the last one is the unbiased result.

`esc50_imagenet` starts from ImageNet weights. `--set model.start=random` trains from random
weights, for which ESC-50 is too small (see `esc10`). `--set model.start=FOLDER` starts from a model
saved by this package.
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
