"""Command that serves the demo page with a model on this machine.

    python -m export.web.serve --model FILE.tflite

The two runtimes of the page are npm packages: run `npm install` in `export/web` once. Browsers
allow the microphone on https and on localhost only.
"""

from __future__ import annotations

import dataclasses
import functools
import http.server
import pathlib
from typing import ClassVar

from absl import flags

from ast_keras.commands.flags import CommandOptions, flag
from ast_keras.commands.runner import run_app
from ast_keras.errors import ExportError

_PAGE = pathlib.Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(CommandOptions):
    """Flags of the command."""

    usage = "python -m export.web.serve --model FILE.tflite"

    model: str = flag(flags.DEFINE_string, None, "File that export.tflite wrote.", required=True)
    port: int = flag(flags.DEFINE_integer, 8080, "Port on this machine; 0 for a free one.")


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the folder of the page, and the model as `model.tflite` wherever its file is.

    Args:
        model: The TFLite file. Its report is `FILE.json` in the same folder.
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
        # Isolation from other origins, which browsers require for WebAssembly threads.
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format, *args):
        pass


def report_of(model: pathlib.Path) -> pathlib.Path:
    """Returns the path of the report that `export.tflite` wrote for a model."""
    return model.with_name(f"{model.name}.json")


def make_server(model: str, port: int) -> http.server.ThreadingHTTPServer:
    """Returns a server of the page that accepts connections from this machine only.

    Args:
        model: File that `export.tflite` wrote.
        port: Port number; 0 for a free one.

    Raises:
        ExportError: If the model, its report or the runtimes are missing.
    """
    path = pathlib.Path(model)
    for file in (path, report_of(path)):
        if not file.is_file():
            raise ExportError(f"The page needs a file that export.tflite wrote. Missing: {file}")
    if not (_PAGE / "node_modules" / "@litertjs").is_dir():
        raise ExportError(f"The page's runtimes are missing: run npm install in {_PAGE}")
    handler = functools.partial(Handler, model=path)
    return http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)


def main(options: Options) -> int:
    server = make_server(options.model, options.port)
    print(f"http://localhost:{server.server_port}  (Ctrl-C stops the server)", flush=True)
    server.serve_forever()
    return 0


def run() -> None:
    """Runs the command."""
    run_app(main, Options)


if __name__ == "__main__":
    run()
