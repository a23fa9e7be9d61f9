"""Speech Commands V2, all 35 words, with the authors' settings, from ImageNet weights.

    python -m ast_keras.train --recipe speech_commands

Data: 105,829 words of 1 s, downloaded once (2.4 GB); 84,843 for training, 9,981 for validation and
  11,005 for testing by the official lists. To use your own copy, set `data.path` to the folder with
  a folder for each word, `validation_list.txt` and `testing_list.txt`.
Expected: accuracy 0.9811 +- 0.0005 on the test list (Gong et al. 2021, table 7), at the best epoch
  on the validation list, tested once. The released weights have 0.98128 on the test list and
  0.98016 on the validation list. The authors' validation log: 0.943, 0.964, 0.975 at epochs 1, 5,
  10. Not measured here.
Cost: not measured; 30 epochs of 84,843 clips with 146 tokens, intended for one GPU. The start
  weights (351 MB) are downloaded once.

The loss is binary although every clip has one label, as in the original. `speech_commands_small`
has settings for a part of the data, from random weights.
"""

from ast_keras.recipe import Augment, Data, Frontend, Model, Optimizer, Recipe, Train


def get_recipe() -> Recipe:
    return Recipe(
        name="speech_commands",
        frontend=Frontend(num_frames=128, mean=-6.845978, std=5.5654526),
        model=Model(size="ast_base", start="deit_base_384"),
        data=Data(kind="speech_commands", clip_seconds=1.0),
        augment=Augment(
            mixup_rate=0.6, freq_mask_bins=48, time_mask_frames=48, noise=True, roll_frames=10
        ),
        optimizer=Optimizer(
            learning_rate=2.5e-4, decay_start_epoch=5, decay_every_epochs=1, decay_rate=0.85
        ),
        train=Train(num_epochs=30, batch_size=128, loss="binary"),
    )
