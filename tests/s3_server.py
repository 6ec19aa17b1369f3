"""A real S3 store for tests and benchmarks: Ceph's gateway over one monitor and one store that lives in memory.

    python -m tests.s3_server   # prints what to export, serves until Ctrl-C

Up in about two seconds, as root or not, on free ports of the loopback, with every file in the folder it is given.
"""

import contextlib
import random
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
INSTALL = "apt-get install -y --no-install-recommends ceph-mon ceph-osd radosgw ceph-common"

ACCESS_KEY = "maskbatch-tests"
SECRET_KEY = "not-a-secret-loopback-only"
STORE_BYTES = 8 << 30  # the memory is taken only as objects come
START_S = 180

# What is switched off would use processor time a benchmark is billed for: authentication and checksums between the
# daemons, scrubbing, garbage collection, life cycles, quotas, usage logs.
CONFIG = """
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon_port}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
; radosgw asks for encryption to the monitor by default, which needs the authentication that is off
ms mon client mode = crc
ms crc data = false
ms async op threads = 1
run dir = {folder}
crash dir = {folder}
keyring = {folder}/keyring
admin socket =
log to file = false
log to stderr = true
debug mon = 0/0
debug paxos = 0/0
debug osd = 0/0
debug rgw = 0/0
debug ms = 0/0
debug rocksdb = 0/0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true

[mon]
mon data = {folder}/mon
mon cluster log to file = false
mon data avail crit = 0
mon data avail warn = 0
paxos propose interval = 0.05

[osd]
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = {store_bytes}
osd crush update on start = true
osd op num shards = 1
osd op num threads per shard = 1
osd max scrubs = 0

[client]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{s3_port} tcp_nodelay=1
rgw enable apis = s3
rgw thread pool size = 16
rgw rados pool pg num min = 4
rgw override bucket index max shards = 1
rgw dynamic resharding = false
rgw enable gc threads = false
rgw enable lc threads = false
rgw enable quota threads = false
rgw run sync thread = false
rgw enable usage log = false
rgw enable ops log = false
"""

# Reads process ids until "end", or until its input closes, as it does however the process that holds it ends; then
# ends them all.
GUARD = 'while read pid && [ "$pid" != end ]; do pids="$pids $pid"; done; [ -z "$pids" ] || kill -KILL $pids'


@dataclass(frozen=True)
class S3Server:
    """A running store and the keys of its one user."""

    endpoint: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY
    daemons: tuple[int, ...] = field(default=(), repr=False)

    def environment(self) -> dict[str, str]:
        """What any S3 client reads to reach this store."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def pids(self) -> list[int]:
        """The daemons' process ids: monitor, object store, gateway."""
        return list(self.daemons)


def missing_programs() -> list[str]:
    """The programs the server needs that are not on the PATH."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Serve S3 from an existing, empty folder until the block ends; nothing of it outlives this process.

    Raises RuntimeError with the end of the log when a step fails or nothing answers within START_S.
    """
    mon_port, s3_port = free_ports(2)
    fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
    (folder / "ceph.conf").write_text(
        CONFIG.format(folder=folder, fsid=fsid, mon_port=mon_port, s3_port=s3_port, store_bytes=STORE_BYTES)
    )
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir()
    with _guard(folder) as daemons:
        monmap = str(folder / "monmap")
        _step(
            folder,
            "monmaptool",
            "--create",
            "--fsid",
            fsid,
            "--addv",
            "a",
            f"v2:127.0.0.1:{mon_port}",
            monmap,
        )
        _step(folder, "ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        daemons.start("ceph-mon", "-f", "-i", "a")
        _step(folder, "ceph", "osd", "new", osd)
        _step(folder, "ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        daemons.start("ceph-osd", "-f", "-i", "0")
        # before the gateway: both make the default zone, and must not do so at once
        keys = ("--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY)
        _step(folder, "radosgw-admin", "user", "create", "--uid", "tests", "--display-name", "tests", *keys)
        daemons.start("radosgw", "-f", "-n", "client.rgw")
        endpoint = f"http://127.0.0.1:{s3_port}"
        daemons.wait_until_answers(endpoint)
        yield S3Server(endpoint, daemons=tuple(daemon.pid for daemon in daemons.running))


@dataclass
class _Daemons:
    """The processes started so far, each known to the guard."""

    folder: Path
    guard: "subprocess.Popen[bytes]"
    running: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def start(self, program: str, *arguments: str) -> None:
        with (self.folder / f"{program}.log").open("wb") as log:
            command = [program, *arguments, "-c", str(self.folder / "ceph.conf")]
            # a session of its own: Ctrl-C in a terminal is for the tests, which then end the daemons
            daemon = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.running.append(daemon)
        self.guard.stdin.write(b"%d\n" % daemon.pid)
        self.guard.stdin.flush()

    def wait_until_answers(self, endpoint: str) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            for daemon in self.running:
                if daemon.poll() is not None:
                    raise RuntimeError(
                        f"{daemon.args[0]} ended with {daemon.returncode}\n{_tail(self.folder)}"
                    )
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                urllib.request.urlopen(endpoint, timeout=5).close()
                return
            time.sleep(0.05)
        raise RuntimeError(f"{endpoint} does not answer after {START_S} s\n{_tail(self.folder)}")


@contextlib.contextmanager
def _guard(folder: Path) -> Iterator[_Daemons]:
    """Kill what was started, at the end of the block or of this process.

    Killed rather than asked: there is nothing to save, and a memstore that ends in good order writes itself to disk.
    """
    guard = subprocess.Popen(["/bin/sh", "-c", GUARD], stdin=subprocess.PIPE, start_new_session=True)
    daemons = _Daemons(folder, guard)
    try:
        yield daemons
    finally:
        guard.communicate(b"end\n")  # said, not only closed: a forked child may hold the pipe open
        for daemon in daemons.running:
            daemon.wait()


def _step(folder: Path, program: str, *arguments: str) -> None:
    command = [program, *arguments]
    if program != "monmaptool":
        command += ["-c", str(folder / "ceph.conf")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_S)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed\n{done.stderr}\n{_tail(folder)}")


def _tail(folder: Path) -> str:
    logs = sorted(folder.glob("*.log"))
    return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-1000:]}" for log in logs)


def free_ports(count: int) -> list[int]:
    """Below those that the system hands out by itself, which others may be given a moment later."""
    found: list[int] = []
    for port in random.sample(range(11000, 30000), 1000):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


def main() -> None:
    """Serve until Ctrl-C."""
    with tempfile.TemporaryDirectory() as folder, s3_server(Path(folder)) as server:
        print("\n".join(f"export {name}={value}" for name, value in server.environment().items()), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(1e9)


if __name__ == "__main__":
    main()
