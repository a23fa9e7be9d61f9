"""Data sets, and the pipeline that makes batches of them.

Importing these modules does not import TensorFlow.

| module | holds |
|---|---|
| `dataset` | `SoundDataset`, `Split`: what every reader returns |
| `readers` | `load_dataset` and a reader for each kind of data set |
| `pipeline` | `Pipeline`: batches of a split, also for `model.fit` |
| `sampling` | the order of examples in an epoch |
| `waveform_augment` | mixup, circular shift and gain |
| `clips` | decoding, in-memory cache, unreadable files |
| `prefetch` | results computed ahead in threads |
| `graph_decoding` | `decode_audio`: a file's samples in the reader's own `tf.data` pipeline |
| `packed` | memory-efficient targets and paths of millions of examples |
| `downloads` | public data sets, downloaded once |
| `builders` | for `tfds build`: data sets as ArrayRecord files |

To add a kind of data set, write a function in a new module of `readers` that returns a
`SoundDataset`, and add it to `READERS`. An argument that other readers do not have also needs a
field in `ast_keras/recipe/schema.py`, and its name in `_READER_SETTINGS` of
`ast_keras/training/build.py`.
"""
