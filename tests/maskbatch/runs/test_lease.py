import json
import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import pytest
from botocore.exceptions import EndpointConnectionError

from maskbatch.errors import RunLockedError
from maskbatch.progress import live_step, step
from maskbatch.runs import lease as lease_module
from maskbatch.runs.directory import RunDir
from maskbatch.runs.lease import Lease, is_live, read_lease
from maskbatch.stores.files import (
    Location,
    identify_place,
    list_names,
    locate_folder,
    write_json,
    write_whole,
)


def held(**changes: Any) -> dict[str, Any]:
    expires = datetime.now(UTC) + timedelta(seconds=100)
    values = {"owner": "other", "host": socket.gethostname(), "pid": os.getpid(), "live": live_step()}
    return values | {"expires_at": expires.isoformat()} | changes


@pytest.fixture
def run(root: Location) -> RunDir:
    return RunDir(root / "run")


@pytest.fixture(scope="module")
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


PAST = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()


def write(run: RunDir, text: str) -> None:
    with write_whole(run.lease) as partial:
        partial.write_text(text)


def test_a_lease_stands_while_it_is_held_and_is_gone_after(run: RunDir) -> None:
    with Lease(run) as lease:
        found = read_lease(run)
        assert found is not None
        assert (found["owner"], found["pid"]) == (lease.owner, os.getpid())
        assert is_live(found)
    assert list_names(run.path) == []


def test_a_lease_is_released_when_the_work_fails(run: RunDir) -> None:
    with pytest.raises(KeyError), Lease(run):
        raise KeyError
    assert read_lease(run) is None


def test_a_second_holder_is_refused_with_exit_code_5(run: RunDir) -> None:
    with Lease(run) as first:
        with pytest.raises(RunLockedError, match=f"in use by process {os.getpid()}") as refused, Lease(run):
            pass
        assert refused.value.exit_code == 5
        assert read_lease(run)["owner"] == first.owner  # type: ignore[index]
    with Lease(run):
        pass


def test_a_lease_of_another_host_is_respected_until_it_expires(run: RunDir, dead_pid: int) -> None:
    write(run, json.dumps(held(host="elsewhere", pid=dead_pid)))
    with pytest.raises(RunLockedError, match="on elsewhere"), Lease(run):
        pass
    write(run, json.dumps(held(host="elsewhere", pid=dead_pid, expires_at=PAST)))
    with Lease(run):
        pass


def test_the_lease_of_a_dead_process_is_taken_over(run: RunDir, dead_pid: int) -> None:
    write(run, json.dumps(held(pid=dead_pid)))
    with Lease(run) as lease:
        assert read_lease(run)["owner"] == lease.owner  # type: ignore[index]


def test_a_process_number_says_nothing_in_another_place_though_the_host_has_the_same_name(
    run: RunDir, dead_pid: int
) -> None:
    lease = held(place="0" * 8, pid=dead_pid)
    assert is_live(lease)
    write(run, json.dumps(lease))
    with pytest.raises(RunLockedError, match="in use by process"), Lease(run):
        pass
    assert not is_live(held(place=identify_place(), pid=dead_pid))
    assert is_live(held(place=identify_place(), pid=os.getppid()))


def test_a_lease_of_an_earlier_process_that_had_our_number_is_taken_over(run: RunDir) -> None:
    write(run, json.dumps(held(place=identify_place())))
    with Lease(run) as lease:
        assert read_lease(run)["owner"] == lease.owner  # type: ignore[index]


def test_each_namespace_of_processes_is_a_place_of_its_own() -> None:
    show = [sys.executable, "-c", "from maskbatch.stores.files import identify_place as f; print(f())"]
    apart = ["unshare", "-Upfr", "--mount-proc", *show]
    try:
        here, there = (subprocess.run(a, capture_output=True, text=True, check=True) for a in (show, apart))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no namespace can be made here: {error}")
    assert here.stdout.strip() == identify_place() != there.stdout.strip()


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "{}", "[]"),
        *map(
            json.dumps,
            [
                held(expires_at=PAST),
                held(expires_at="2999-01-01T00:00:00"),
                held(expires_at=4e9),
                held(owner=None),
                held(place=7),
                *(held(pid=pid) for pid in (None, str(os.getpid()), 0, -1, 10**20)),
                *(held(live=value) for value in (None, "score", {}, {"phase": "score"})),
                *(held(live=live_step() | {"statuses": value}) for value in (None, {"ok": "5"})),
                held(live=live_step() | {"statuses": {"ok": 10**400}}),
                *(
                    held(live=live_step() | {"total": 1, name: number})
                    for name in ("done", "total", "rate", "eta_s")
                    for number in (10**400, 10**20, -5, float("inf"), float("-inf"), float("nan"))
                ),
            ],
        ),
    ],
)
def test_an_expired_or_unreadable_lease_is_taken_over(run: RunDir, text: str) -> None:
    write(run, text)
    found = read_lease(run)
    assert found is None or not is_live(found)
    with Lease(run) as lease:
        assert read_lease(run)["owner"] == lease.owner  # type: ignore[index]


@pytest.mark.parametrize(("ahead_s", "live"), [(170, True), (185, True), (240, False), (86_400, False)])
def test_a_lease_that_expires_far_ahead_was_written_by_a_clock_set_wrong(ahead_s: float, live: bool) -> None:
    expires = datetime.now(UTC) + timedelta(seconds=ahead_s)
    assert is_live(held(host="elsewhere", expires_at=expires.isoformat())) == live


def test_a_driver_whose_lease_is_anothers_or_gone_does_nothing_more(run: RunDir) -> None:
    with Lease(run) as lease:
        lease.check()
        write(run, json.dumps(held(host="camera-pc")))
        lease.watch()  # which asks every 20 s
        with pytest.raises(RunLockedError, match=r"process \d+ on camera-pc took the run over"):
            lease.check()
        lease._checked -= 20
        with pytest.raises(RunLockedError, match="took the run over"):
            lease.watch()
        run.lease.unlink()
        with pytest.raises(
            RunLockedError, match="another driver took the run over, or somebody removed _lease"
        ):
            lease.check()


def test_a_driver_whose_run_was_committed_does_nothing_more(run: RunDir) -> None:
    with Lease(run) as lease:
        write_json(run.success, {})
        with pytest.raises(RunLockedError, match="another driver committed it while this one slept"):
            lease.check()


def wait_for(run: RunDir, **live: Any) -> dict[str, Any]:
    """The lease, as soon as its live record says this."""
    deadline = time.monotonic() + 120
    while (found := read_lease(run)) is None or not live.items() <= found["live"].items():
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return found


def test_a_lease_is_renewed_and_says_how_far_the_innermost_step_is(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "RENEW_S", 0.01)
    with Lease(run):
        first = wait_for(run, phase="start", done=0, total=None)
        with step("score", 8) as shown:
            shown.statuses.update(ok=5, missing=2)
            shown.advance(7)
            found = wait_for(run, phase="score", unit="images", done=7, total=8)
            assert found["live"]["statuses"] == {"ok": 5, "missing": 2}
            with step("commit", 3, "files"):
                wait_for(run, phase="commit", unit="files", done=0, total=3)
            wait_for(run, phase="score", done=7)
        wait_for(run, phase="start", done=0)
        assert found["expires_at"] > first["expires_at"]


def test_a_lease_that_was_taken_over_is_left_to_its_new_owner(run: RunDir) -> None:
    with Lease(run):
        write(run, json.dumps(held()))
    assert read_lease(run)["owner"] == "other"  # type: ignore[index]


def test_a_creation_whose_answer_was_lost_is_ones_own(run: RunDir) -> None:
    lease = Lease(run)
    write_json(run.lease, lease._content())
    with lease:
        assert read_lease(run)["owner"] == lease.owner  # type: ignore[index]


@pytest.mark.parametrize("honest", [True, False])
def test_a_store_that_creates_twice_is_named(
    honest: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir(locate_folder("memory://creating-twice"))
    if not honest:
        put = run.path.fs.pipe_file
        monkeypatch.setattr(run.path.fs, "pipe_file", lambda path, data, mode="": put(path, data))
    with Lease(run) as lease:
        assert read_lease(run)["owner"] == lease.owner  # type: ignore[index]
    said = capsys.readouterr().err.replace("\n", " ")
    warning = "memory://creating-twice: this store does not honour exclusive creation"
    assert said.count(warning) == (not honest)


def test_a_lease_outlives_a_store_that_is_away_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir(locate_folder("memory://away-for-a-while"))
    monkeypatch.setattr(lease_module, "RENEW_S", 0.01)
    with Lease(run):
        with monkeypatch.context() as away:
            away.setattr(run.path.fs, "open", Mock(side_effect=EndpointConnectionError(endpoint_url="x")))
            time.sleep(0.1)
        with step("score", 7):
            wait_for(run, phase="score", total=7)


def test_a_lease_is_renewed_while_the_library_of_a_store_is_half_imported(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "RENEW_S", 0.01)
    with Lease(run):
        with monkeypatch.context() as importing:
            importing.setitem(sys.modules, "aiohttp", ModuleType("aiohttp"))
            with step("score", 7):
                wait_for(run, phase="score", total=7)
        wait_for(run, phase="start")
