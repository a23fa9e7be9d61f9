"""Trained models applied to files and streams.

| module | holds |
|---|---|
| `predictor` | `Predictor`: scores of sound files, whole or in windows |
| `windows` | windows of long files, and the aggregation of their scores |
| `events` | events, with onset and offset, from the scores of windows |
| `formats` | predictions as a table, JSON, CSV or Audacity labels |
| `embedder` | `Embedder`: vectors of sounds, seconds or patches |
| `embedding_files` | embeddings in Parquet files and NumPy archives |
| `attribution` | attention maps, gradients and occlusion for one sound |
| `explanation` | `explain_file`: scores of a file, and the evidence for its classes |
| `streaming` | `StreamingClassifier`: results of an endless stream, every hop |
"""
