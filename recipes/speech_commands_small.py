"""Speech Commands from random weights, with settings for little data.

    python -m ast_keras.train --recipe speech_commands_small --set data.path=speech_commands_v0.02

Data: the folder of Speech Commands V2 (a folder for each word, `validation_list.txt`,
  `testing_list.txt`). Partial copies can be used. The best epoch on the validation list is chosen
  and tested once.
Expected: on 3,727 clips of nine words, accuracy 0.918 +- 0.008 on the test list and 0.935 +- 0.004
  on the validation list (three seeds). Logistic regression on log-mels: 0.810 and 0.834.
Cost: 20 epochs of 2,976 clips, 5 minutes on two shared cores.

The authors' settings (`speech_commands`) start from ImageNet weights and reach 0.9811.
recipes/README.md explains the differences.
"""

from ast_keras.recipe import Augment, Data, Frontend, Model, Optimizer, Recipe, Train


def get_recipe() -> Recipe:
    return Recipe(
        name="speech_commands_small",
        frontend=Frontend(num_frames=98, mean=-6.845978, std=5.5654526),
        model=Model(size="ast_nano", patch_size=(128, 2), strides=(128, 2)),
        data=Data(kind="speech_commands", clip_seconds=1.0),
        augment=Augment(
            mixup_rate=0.5,
            freq_mask_bins=24,
            time_mask_frames=24,
            shift_seconds=0.1,
            gain_db=6.0,
        ),
        optimizer=Optimizer(
            learning_rate=1e-3,
            beta_1=0.9,
            l2=0.0,
            weight_decay=0.05,
            schedule="warmup_cosine",
            warmup_steps=300,
        ),
        train=Train(num_epochs=20, batch_size=32),
    )
