"""Shows the demo page with a model: `python -m export.web.serve --model FILE.tflite`.

The page's two runtimes come from npm: run `npm install` in `export/web` once. For the microphone,
browsers want https or localhost.
"""

from __future__ import annotations

import functools
import http.server
import pathlib
import sys
from typing import ClassVar

from absl import app, flags

from ast_keras.commands.runner import run_command
from ast_keras.errors import ExportError

_PAGE = pathlib.Path(__file__).resolve().parent


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the page's folder, and the model under one name wherever it lies.

    Args:
      model: The TFLite file; its report, `FILE.json`, lies beside it.
    """

    extensions_map: ClassVar[dict[str, str]] = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".wasm": "application/wasm",
        ".mjs": "text/javascript",
    }

    def __init__(self, *args, model: pathlib.Path, **kwargs):
        self._files = {"model.tflite": model, "model.tflite.json": report_of(model)}
        super().__init__(*args, directory=str(_PAGE), **kwargs)

    def translate_path(self, path):
        name = path.partition("?")[0].lstrip("/")
        return str(self._files[name]) if name in self._files else super().translate_path(path)

    def end_headers(self):
        # What lets a page use threads and exact clocks.
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format, *args):
        pass


def report_of(model: pathlib.Path) -> pathlib.Path:
    """Returns the report that `export.tflite` wrote beside a model."""
    return model.with_name(f"{model.name}.json")


def make_server(model: str, port: int) -> http.server.ThreadingHTTPServer:
    """Returns a server of the page on this machine only; port 0 takes a free one.

    Raises:
      ExportError: If the model, its report or the runtimes are not there.
    """
    path = pathlib.Path(model)
    for file in (path, report_of(path)):
        if not file.is_file():
            raise ExportError(f"The page needs a file of export.tflite. Missing: {file}")
    if not (_PAGE / "node_modules" / "@litertjs").is_dir():
        raise ExportError(f"The page's runtimes are missing: run npm install in {_PAGE}")
    handler = functools.partial(Handler, model=path)
    return http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)


def main(argv: list[str]) -> int:
    if flags.FLAGS.model is None or len(argv) > 1:
        raise ExportError("Say which model: --model FILE.tflite")
    server = make_server(flags.FLAGS.model, flags.FLAGS.port)
    print(f"http://localhost:{server.server_port}  (Ctrl-C ends)", flush=True)
    server.serve_forever()
    return 0


def run() -> None:
    """Defines the flags and runs the command."""
    flags.DEFINE_string("model", None, "A file that export.tflite wrote.")
    flags.DEFINE_integer("port", 8080, "Port on this machine; 0 for a free one.")
    app.run(lambda argv: sys.exit(run_command(main, argv)))


if __name__ == "__main__":
    run()
