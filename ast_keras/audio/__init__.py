"""Reading, resampling and encoding sound; the mel scale. NumPy, soundfile and soxr only.

| module | holds |
|---|---|
| `decoding` | files and bytes to frames of samples |
| `loading` | anything to mono float32 at one sample rate: `load_audio` |
| `blocks` | the same for hours of sound, in blocks |
| `encoding` | samples to WAV and FLAC bytes |
| `mel` | the mel scale, filters and frame counts |
"""

from ast_keras.audio.loading import audio_from_array, audio_info, load_audio
from ast_keras.errors import AudioError, AudioWarning

__all__ = ["AudioError", "AudioWarning", "audio_from_array", "audio_info", "load_audio"]
