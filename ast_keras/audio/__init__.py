"""Loading, resampling and encoding of audio, and the mel scale. NumPy, soundfile and soxr only.

| module | content |
|---|---|
| `loading` | `load_audio`, `audio_from_array`, `audio_info`: mono float32 at one sample rate |
| `blocks` | `sound_blocks`: the same samples block by block, for long files |
| `decoding` | decoding of files and bytes, at the rate and channels of the file |
| `opening` | opening with libsndfile or ffmpeg, and repair of damaged files |
| `mp3_frames`, `ogg_chains`, `pcm_headers` | the damage of MP3, Ogg, and WAV and its relatives |
| `joined_streams`, `spliced_file`, `damage`, `mpg123_messages` | helpers of the repair |
| `ffmpeg` | decoding of what libsndfile cannot read, by the `ffmpeg` command |
| `channels` | inverted and dead channels |
| `encoding` | `wav_bytes`, `flac_bytes`, `write_wav`: 16-bit WAV and FLAC |
| `filterbank_range` | `FilterbankRange`: frequencies and frames of a filterbank |
| `mel` | windows, mel filters and frame counts of Kaldi's filterbank |
"""

from ast_keras.audio.loading import audio_from_array, audio_info, load_audio
from ast_keras.errors import AudioError, AudioWarning

__all__ = ["AudioError", "AudioWarning", "audio_from_array", "audio_info", "load_audio"]
