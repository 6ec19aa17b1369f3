"""The command line as a user calls it, and what a finished run holds."""

import os
import subprocess
import sys
from pathlib import Path

COMMAND = (sys.executable, "-m", "maskbatch")


def call(*arguments: object, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **env}, errors="surrogateescape"
    )


def peak_mb() -> float:
    """The most memory that this process has had; getrusage would count that of the parent too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
