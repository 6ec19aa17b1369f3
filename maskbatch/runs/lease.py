"""The lease on a run directory: keeps a second driver from repeating the first one's work.

Fixed names and `_SUCCESS` keep a run right without it. A lease is stale three minutes after it was last
renewed, or at once when its process is gone and had its number where this one has its own. A driver that
slept through that, and woke after another took the lease, must touch nothing more: `check` stands before
each step that replaces or removes a file. In a store a lease needs exclusive creation, so whoever takes one
tries that out.
"""

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from maskbatch.errors import RunFailedError, RunLockedError
from maskbatch.progress import live_step, say
from maskbatch.runs.directory import RunDir
from maskbatch.stores.files import (
    identify_place,
    is_process_alive,
    list_names,
    parse_json,
    store_errors,
    write_json,
)

RENEW_S = 20.0
STALE_S = 180.0
AHEAD_S = STALE_S + RENEW_S
"""A lease that expires later was written by a clock set wrong; clocks may differ by what is over STALE_S."""
RELEASE_S = 10.0
MOST = 10**12
"""Of images, of images a second, of seconds."""
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

_owners: set[str] = set()
"""Of the leases of this process."""


class Lease:
    """Holds OUT for this process while the `with` block runs, and publishes its progress."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.owner = uuid.uuid4().hex
        _owners.add(self.owner)
        self._checked = time.time()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        """Take the lease. Raises RunLockedError while another live driver holds it."""
        try:
            write_json(self.run.lease, self._content(), exclusive=True)
        except FileExistsError:
            lease = read_lease(self.run)
            if lease is not None and lease["owner"] != self.owner and is_live(lease):
                raise RunLockedError(self._explain(lease)) from None
            write_json(self.run.lease, self._content())
            lease = read_lease(self.run)
            if lease is None or lease["owner"] != self.owner:  # two drivers found the same stale lease
                raise RunLockedError(self._explain(lease or {})) from None
        if not isinstance(self.run.path, Path):
            self._warn_if_shared()
        self._thread.start()
        return self

    def check(self) -> None:
        """Raises RunLockedError where another driver took this lease, or committed the run."""
        lease = read_lease(self.run)
        if self.run.success.exists():
            what = "another driver committed it while this one slept; the same command reports it"
            raise RunLockedError(f"{self.run.path}: {what}")
        if lease is None or lease["owner"] != self.owner:
            raise RunLockedError(self._explain_loss(lease))
        self._checked = time.time()

    def watch(self) -> None:
        """As `check`, if the last one was RENEW_S ago or more: between steps that replace nothing."""
        if abs(time.time() - self._checked) >= RENEW_S:
            with contextlib.suppress(*store_errors()):  # a store that is away for a while
                self.check()

    def _warn_if_shared(self) -> None:
        """At start, check whether the store supports exclusive creation; warn if not."""
        try:
            write_json(self.run.lease, self._content(), exclusive=True)
        except FileExistsError:
            return
        what = "this store does not honour exclusive creation, so two runs started at the same moment"
        say(f"{self.run.path}: {what} are not kept apart; start one at a time.")

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        release = threading.Thread(target=self._release, daemon=True)  # a hung store holds nobody up
        release.start()
        release.join(RELEASE_S)

    def _release(self) -> None:
        self._thread.join()
        with contextlib.suppress(*store_errors()):  # it goes stale by itself
            lease = read_lease(self.run)
            if lease is not None and lease["owner"] == self.owner:
                self.run.lease.unlink(missing_ok=True)
            if isinstance(self.run.path, Path) and not list_names(self.run.path):
                self.run.path.rmdir()  # as after an archive without images

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_S):
            with contextlib.suppress(RunFailedError, *store_errors()):  # the next renewal may succeed
                lease = read_lease(self.run)
                if lease is None or lease["owner"] != self.owner:
                    return  # taken over while this process slept, and perhaps given back: `check` stops it
                write_json(self.run.lease, self._content())

    def _content(self) -> dict[str, Any]:
        return {
            "owner": self.owner,
            "host": socket.gethostname(),
            "place": identify_place(),
            "pid": os.getpid(),
            "expires_at": datetime.fromtimestamp(time.time() + STALE_S, UTC).isoformat(),
            "live": live_step(),
        }

    def _explain(self, lease: dict[str, Any]) -> str:
        who = f"process {lease.get('pid', '?')} on {lease.get('host', '?')}"
        return f"{self.run.path} is in use by {who}; wait for it, stop it, or name another --out"

    def _explain_loss(self, lease: dict[str, Any] | None) -> str:
        what = "its lease is gone: another driver took the run over, or somebody removed _lease.json"
        if lease:
            what = f"process {lease['pid']} on {lease['host']} took the run over while this one slept"
        what += ", so this one stops here"
        return f"{self.run.path}: {what}; it goes on there, or else with the same command"


def read_lease(run: RunDir) -> dict[str, Any] | None:
    """The lease, or None where there is none, or a damaged one."""
    try:
        lease: dict[str, Any] = parse_json(run.lease.read_bytes())
        return lease if _is_sound(lease) else None
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _is_sound(lease: Any) -> bool:
    """Whether JSON is as `Lease` writes it. Raises ValueError for a malformed time."""
    if not (_has(lease, FIELDS) and _has(lease["live"], LIVE_FIELDS)):
        return False
    live = lease["live"]
    numbers = [live["done"], live["total"] or 0, live["rate"], live["eta_s"] or 0, *live["statuses"].values()]
    return (
        all(isinstance(number, int | float) and 0 <= number <= MOST for number in numbers)
        and isinstance(lease.get("place", ""), str)
        and 0 < lease["pid"] < 2**31
        and datetime.fromisoformat(lease["expires_at"]).tzinfo is not None
    )


def _has(values: Any, fields: Mapping[str, Any]) -> bool:
    return (
        isinstance(values, dict)
        and fields.keys() <= values.keys()
        and all(isinstance(values[name], kind) for name, kind in fields.items())
    )


def is_live(lease: dict[str, Any]) -> bool:
    """Whether the driver that wrote this lease may still be at work."""
    left_s = (datetime.fromisoformat(lease["expires_at"]) - datetime.now(UTC)).total_seconds()
    if not 0 <= left_s <= AHEAD_S:
        return False
    if "place" not in lease:  # of an earlier version
        return lease["host"] != socket.gethostname() or is_process_alive(lease["pid"])
    if lease["place"] != identify_place():
        return True
    if lease["pid"] == os.getpid():  # else of a container before this one, which had our number
        return lease["owner"] in _owners
    return is_process_alive(lease["pid"])
