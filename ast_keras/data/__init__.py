"""Data sets, and the pipeline that makes batches of them. No TensorFlow is imported.

| module | holds |
|---|---|
| `dataset` | `SoundDataset`, `Split`: what every reader returns |
| `readers` | `load_dataset` and a reader for each kind of data set |
| `pipeline` | `Pipeline`: batches of a split, also for `model.fit` |
| `sampling` | the order of examples in an epoch |
| `waveform_augment` | mixup, circular shift and gain |
| `clips` | decoding, in-memory cache, unreadable files |
| `prefetch` | results computed ahead in threads |
| `packed` | memory-efficient targets and paths of millions of examples |
| `downloads` | public data sets, downloaded once |
| `builders` | for `tfds build`: data sets as ArrayRecord files |

To add a data set, write a function in a new module of `readers` that returns a `SoundDataset`, and
add it to `READERS`.
"""
