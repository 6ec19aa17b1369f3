"""The lease on a run directory: keeps a second driver from repeating the first one's work.

It only saves work; what makes a run right is fixed names and `_SUCCESS`. A lease is stale three
minutes after it was last renewed, or at once when its process on this host is gone. In a store it
rests on exclusive creation, which is tried out where it is taken.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from maskbatch.errors import RunFailedError, RunLockedError
from maskbatch.progress import live_step, say
from maskbatch.runs.directory import RunDir
from maskbatch.stores.files import list_names, store_errors, write_json

RENEW_S = 20.0
STALE_S = 180.0
RELEASE_S = 10.0
FIELDS = {"owner": str, "host": str, "pid": int, "expires_at": str, "live": dict}
LIVE_FIELDS = {
    "phase": str,
    "unit": str,
    "done": int,
    "total": int | None,
    "statuses": dict,
    "rate": int | float,
    "eta_s": int | None,
}
"""Of `progress.live`."""


class Lease:
    """Holds OUT for this process while the `with` block runs, and says how far its work is."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.owner = uuid.uuid4().hex
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        """Take the lease. Raises RunLockedError while another live driver holds it."""
        try:
            write_json(self.run.lease, self._content(), exclusive=True)
        except FileExistsError:
            held = read_lease(self.run)
            if held is not None and held["owner"] != self.owner and is_live(held):
                raise RunLockedError(self._refusal(held)) from None
            write_json(self.run.lease, self._content())
            held = read_lease(self.run)
            if held is None or held["owner"] != self.owner:  # two drivers found the same stale lease
                raise RunLockedError(self._refusal(held or {})) from None
        if not isinstance(self.run.path, Path):
            self._try_out()
        self._thread.start()
        return self

    def _try_out(self) -> None:
        try:
            write_json(self.run.lease, self._content(), exclusive=True)
        except FileExistsError:
            return
        what = "this store does not honour exclusive creation, so two runs started at the same moment"
        say(f"{self.run.path}: {what} are not kept apart; start one at a time.")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        release = threading.Thread(target=self._release, daemon=True)  # a hung store holds nobody up
        release.start()
        release.join(RELEASE_S)

    def _release(self) -> None:
        self._thread.join()
        with contextlib.suppress(*store_errors()):  # it goes stale by itself
            held = read_lease(self.run)
            if held is not None and held["owner"] == self.owner:
                self.run.lease.unlink(missing_ok=True)
            if isinstance(self.run.path, Path) and not list_names(self.run.path):
                self.run.path.rmdir()  # nothing came of it, such as of an archive without images

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_S):
            with contextlib.suppress(RunFailedError, *store_errors()):  # the next may do; the work goes on
                held = read_lease(self.run)
                if held is not None and held["owner"] != self.owner:
                    return  # taken over while this process slept; only one of the two can commit
                write_json(self.run.lease, self._content())

    def _content(self) -> dict[str, Any]:
        return {
            "owner": self.owner,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "expires_at": datetime.fromtimestamp(time.time() + STALE_S, UTC).isoformat(),
            "live": live_step(),
        }

    def _refusal(self, held: dict[str, Any]) -> str:
        who = f"process {held.get('pid', '?')} on {held.get('host', '?')}"
        return f"{self.run.path} is in use by {who}; wait for it, stop it, or name another --out"


def read_lease(run: RunDir) -> dict[str, Any] | None:
    """The lease as it stands, or None; what a `Lease` would not write is none."""
    try:
        held: dict[str, Any] = json.loads(run.lease.read_bytes())
        return held if _is_lease(held) else None
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _is_lease(held: Any) -> bool:
    """Whether JSON is as `Lease` writes it. Raises ValueError for a time that is none."""
    return (
        _has(held, FIELDS)
        and _has(held["live"], LIVE_FIELDS)
        and all(isinstance(number, int) for number in held["live"]["statuses"].values())
        and abs(held["live"]["eta_s"] or 0) < 2**31
        and 0 < held["pid"] < 2**31
        and datetime.fromisoformat(held["expires_at"]).tzinfo is not None
    )


def _has(values: Any, fields: Mapping[str, Any]) -> bool:
    return (
        isinstance(values, dict)
        and fields.keys() <= values.keys()
        and all(isinstance(values[name], kind) for name, kind in fields.items())
    )


def is_live(held: dict[str, Any]) -> bool:
    """Whether the driver that wrote this lease may still be at work."""
    if datetime.fromisoformat(held["expires_at"]) < datetime.now(UTC):
        return False
    if held["host"] != socket.gethostname():
        return True
    try:
        os.kill(held["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
