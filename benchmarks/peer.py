"""The other side of a benchmark: a process of another environment that is asked again and again."""

import subprocess
import sys


def start_peer(python, module, arguments, needs):
    """Starts `python -m MODULE --serve_peer ...` and waits until it says that it is ready.

    Args:
      python: The interpreter of the other environment.
      module: The benchmark, which serves its peer itself.
      arguments: Further ones.
      needs: What must be installed there, for the message when it is not.
    """
    command = [python, "-m", module, "--serve_peer", *map(str, arguments)]
    peer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if peer.stdout.readline().strip() != "ready":
        sys.exit(
            f"The peer could not be started: give --peer_python an interpreter with {needs}. "
            f"Received: {python}"
        )
    return peer
