"""Send a job to a Ray cluster by its Jobs API, and follow, stop or resume it.

    python -m jobs.submit --follow audit ARGS...      # python -m jobs.audit_month ARGS...
    python -m jobs.submit --follow nightly ARGS...    # python -m jobs.nightly_report ARGS...
    python -m jobs.submit --follow score ARGS...      # maskbatch score ARGS... --address auto
    python -m jobs.submit list | status ID | logs ID --follow | stop ID

Flags of submit stand before the job's name. The job gets everything after it, so give paths of the cluster:
URLs, or folders that every node sees.

A job's id follows from its name and arguments. While an attempt runs, the same command attaches to it. After
that it starts the next attempt (`-2`, `-3` ...), which goes on where the last one stopped, or returns the
recorded exit code if nothing is left to do. With --follow the exit code is the job's; 1 also if no cluster
answers.

The job begins by checking that the head has the packages of requirements.lock. With `--requirements
requirements.lock` Ray installs them where they are missing. That takes minutes at first, and a whole copy if
Ray itself runs in a virtual environment.
"""

import hashlib
import logging
import re
import shlex
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from ray.job_submission import JobDetails
from typer import Argument, Option

from jobs.jobserver import COMMAND, Client, connect, finished, follow, line
from maskbatch.cli.program import run_program
from maskbatch.errors import DONE, RunFailedError, UsageError
from maskbatch.progress import say
from maskbatch.visible import make_lines_visible, show

ROOT = Path(__file__).parents[1]
MAX_UPLOAD_BYTES = 100 << 20
"""Ray's job server refuses more (DASHBOARD_CLIENT_MAX_SIZE), though its packages may have 512."""
STOP_S = 60
"""A stopped job gives its lease back. Ray's own 3 s end in a kill, and the lease then lasts 3 minutes."""
FILES_READ, PLACES_WRITTEN = ("--config", "--checkpoint"), ("--out", "--base", "--bundle")
"""Flags of the jobs whose value is a path."""

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The flags before the job's name."""

    address: str
    follow: bool
    include: Sequence[Path]
    requirements: Path | None


def submission_id(name: str, arguments: Sequence[str]) -> str:
    """Name a job from its name, the date in its arguments and their digest, so that equal jobs share an id.

    `nightly` without a date means another night every day, and gets today's.
    """
    digest = hashlib.sha256("\0".join((name, *arguments)).encode()).hexdigest()[:8]
    dates = [value for value in arguments if re.fullmatch(r"\d{4}-\d\d(-\d\d)?", value)]
    if name == "nightly" and not dates:
        dates = [date.today().isoformat()]
    return "-".join(("maskbatch", name, *dates[:1], digest))


def last_attempt(client: Client, base: str) -> tuple[int, JobDetails | None]:
    """Find the last attempt at a job, and its number; 0 if there is none."""
    attempts: list[tuple[int, JobDetails | None]] = [(0, None)]
    for job in client.list_jobs():
        if found := re.fullmatch(rf"{base}(?:-(\d+))?", job.submission_id or ""):
            attempts.append((int(found[1] or 1), job))
    return max(attempts, key=lambda attempt: attempt[0])


def sent_files(settings: Settings) -> dict[str, Path]:
    """List what the cluster gets: the code, its pins and --include, by their names there."""
    files = {name: ROOT / name for name in ("pyproject.toml", "requirements.lock")}
    for name in ("jobs", "maskbatch"):
        files |= {path.relative_to(ROOT).as_posix(): path for path in (ROOT / name).rglob("*")}
    if settings.requirements:
        files["requirements.lock"] = settings.requirements
    for path in settings.include:
        if path.is_absolute() or ".." in path.parts:
            remedy = "name it by a path below the current folder, which it keeps there"
            raise UsageError(f"--include {path}: {remedy}")
        files |= {found.as_posix(): found for found in (path, *path.rglob("*"))}
    kept = {name: it for name, it in files.items() if it.is_file() and "__pycache__" not in it.parts}
    return dict(sorted(kept.items()))


def package(files: dict[str, Path], folder: Path) -> Path:
    """Zip `files`. Equal files give equal bytes, which Ray uploads once and nodes keep."""
    number = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    packed = folder / "sent.zip"
    with zipfile.ZipFile(packed, "w") as target:
        for name, path in files.items():
            target.writestr(zipfile.ZipInfo(name), path.read_bytes(), zipfile.ZIP_DEFLATED)
        about = f"Metadata-Version: 2.1\nName: maskbatch\nVersion: {number}\n"  # run.json names this version
        target.writestr(zipfile.ZipInfo(f"maskbatch-{number}.dist-info/METADATA"), about)
    size_mib, most_mib = packed.stat().st_size / (1 << 20), MAX_UPLOAD_BYTES >> 20
    if size_mib > most_mib:
        remedy = "put large files where every node reads them, and --include less"
        raise UsageError(f"{size_mib:,.0f} MiB would be sent to the cluster, Ray takes {most_mib}; {remedy}")
    say(f"sending {len(files)} files, {size_mib:.1f} MiB")
    return packed


def check_paths(arguments: Sequence[str], sent: Iterable[str]) -> None:
    """Raise UsageError for a relative path, which means nothing on the cluster."""
    words = [part for word in arguments for part in (word.split("=", 1) if word[:2] == "--" else [word])]
    for flag, value in pairwise(words):
        if value in sent or "://" in value or value.startswith("/"):
            continue
        if flag == "--storage-options":
            where = "no credentials are sent; give the path the file has on the head, or use the nodes' role"
            raise UsageError(f"--storage-options {value}: {where}")
        if flag in FILES_READ:
            raise UsageError(f"{flag} {value}: the cluster does not have this file; add --include {value}")
        if flag in PLACES_WRITTEN:
            raise UsageError(f"{flag} {value}: give a URL, or the absolute path of a folder every node sees")


def send(client: Client, job_id: str, entrypoint: str, files: dict[str, Path], pinned: Path | None) -> None:
    """Start an attempt, unless another submitter started the same one a moment ago."""
    with tempfile.TemporaryDirectory() as folder:
        runtime_env: dict[str, Any] = {"uv": str(pinned)} if pinned else {}
        runtime_env["working_dir"] = str(package(files, Path(folder)))
        runtime_env["env_vars"] = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)}
        try:
            client.submit_job(entrypoint=entrypoint, submission_id=job_id, runtime_env=runtime_env)
        except RunFailedError as error:
            if "already exists" not in str(error):
                raise
    say(f"{job_id}: {entrypoint}")


def submit_job(settings: Settings, name: str, module: str, arguments: Sequence[str]) -> int:
    """Start the next attempt at a job, or attach to the one that runs; returns the exit code."""
    files = sent_files(settings)
    check_paths(arguments, files)
    client = connect(settings.address)
    base = submission_id(name, arguments)
    number, job = last_attempt(client, base)
    job_id = base if number < 1 else f"{base}-{number + 1}"
    if job is None or job.status.is_terminal():
        if job is not None:
            say(f"{line(job)}; " + ("run again" if finished(job) else "the next attempt goes on from there"))
        entrypoint = shlex.join(["python", "-m", "jobs.preflight", module, *arguments])
        send(client, job_id, entrypoint, files, settings.requirements)
    else:
        job_id = str(job.submission_id)
        say(f"{line(job)}; it goes on, and nothing was sent")
    if settings.follow:
        return follow(client, job_id)
    say(f"Watch: {COMMAND} logs {job_id} --follow")
    return DONE


Arguments = Annotated[list[str] | None, Argument(metavar="ARGS...", help="What the job is called with.")]
JobId = Annotated[str, Argument(metavar="ID", help="As submit and list print it.")]
UNCHANGED = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@app.callback()
def main_flags(
    context: typer.Context,
    address: Annotated[
        str, Option(envvar="RAY_API_SERVER_ADDRESS", help="URL of the cluster's dashboard.")
    ] = "http://127.0.0.1:8265",
    follow: Annotated[
        bool, Option("--follow", help="Print the job's log to its end, and exit with its code.")
    ] = False,
    include: Annotated[
        list[Path] | None, Option(help="A file or folder below the current folder to send too; repeated.")
    ] = None,
    requirements: Annotated[
        Path | None,
        Option(help="Pins that the nodes install for the job, beside what they have [none: checked]."),
    ] = None,
) -> None:
    """Send a job to a Ray cluster; follow, stop or resume it."""
    for path in (*(include or ()), *filter(None, [requirements])):
        if not path.exists():
            raise UsageError(f"{path} does not exist; name a file or folder of this machine")
    context.obj = Settings(address.rstrip("/"), follow, include or (), requirements)


@app.command(context_settings=UNCHANGED)
def audit(context: typer.Context, arguments: Arguments = None) -> int:
    """Audit a month: python -m jobs.audit_month ARGS... on the cluster."""
    return submit_job(context.obj, "audit", "jobs.audit_month", arguments or ())


@app.command(context_settings=UNCHANGED)
def nightly(context: typer.Context, arguments: Arguments = None) -> int:
    """Report a night: python -m jobs.nightly_report ARGS... on the cluster."""
    return submit_job(context.obj, "nightly", "jobs.nightly_report", arguments or ())


@app.command(context_settings=UNCHANGED)
def score(context: typer.Context, arguments: Arguments = None) -> int:
    """Score an archive: maskbatch score ARGS... --address auto on the cluster."""
    return submit_job(context.obj, "score", "maskbatch", ["score", *(arguments or ()), "--address", "auto"])


@app.command(name="list")
def list_jobs(context: typer.Context) -> None:
    """Show the jobs that were submitted from here, the newest last."""
    jobs = connect(context.obj.address).list_jobs()
    ours = [job for job in jobs if (job.submission_id or "").startswith("maskbatch-")]
    if not ours:
        show("no jobs")
    for job in sorted(ours, key=lambda job: job.start_time or 0):
        show(line(job))


@app.command()
def status(context: typer.Context, job_id: JobId) -> None:
    """Show how a job stands, and what it runs."""
    job = connect(context.obj.address).get_job_info(job_id)
    show(line(job), job.entrypoint)
    print(make_lines_visible("" if finished(job) else job.message or ""))


@app.command()
def logs(
    context: typer.Context,
    job_id: JobId,
    follow_on: Annotated[bool, Option("--follow", help="To its end, and exit with the job's code.")] = False,
) -> int:
    """Print a job's log so far, or follow it."""
    client = connect(context.obj.address)
    client.get_job_info(job_id)
    if follow_on:
        return follow(client, job_id)
    print(make_lines_visible(client.get_job_logs(job_id)), end="")
    return DONE


@app.command()
def stop(context: typer.Context, job_id: JobId) -> None:
    """Stop a job and wait until it has; the same submit goes on from there."""
    say(f"stopping {job_id}, which may take {STOP_S} s")
    client = connect(context.obj.address)
    client.stop_job(job_id)
    while not (job := client.get_job_info(job_id)).status.is_terminal():
        time.sleep(1)
    show(line(job))


if __name__ == "__main__":
    logging.disable(logging.INFO)  # Ray's client tells of every connection
    run_program(app, f"{COMMAND} --help")
