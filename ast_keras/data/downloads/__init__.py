"""Downloads of public data sets. No TensorFlow.

| module | holds |
|---|---|
| `http` | `download`: one large file over HTTP, resumed after an interruption |
| `archives` | `unpack`: untrusted `.zip` and `.tar` files into a folder |
| `public_data` | `find_data`: ESC-50 and Speech Commands, found or downloaded once |
"""
