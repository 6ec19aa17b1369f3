"""The job server of a Ray cluster: connect to it, or say why not, and follow a job over a bad connection."""

import asyncio
import os
import sys
import time
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from typing import Any, NoReturn

import aiohttp
import ray
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from maskbatch.errors import ALERT, FAILED, INTERRUPTED, TOO_MANY_FAILED_IMAGES, RunFailedError, UsageError
from maskbatch.progress import say
from maskbatch.visible import make_lines_visible

REQUEST_S, SILENCE_S, PAUSE_S, GIVE_UP_S = 60.0, 60.0, 3.0, 900.0
COMMAND = "python -m jobs.submit"
FINISHED = {TOO_MANY_FAILED_IMAGES: "many images failed", ALERT: "alert"}
"""Exit codes of jobs that did all their work, which Ray calls FAILED."""


class Client(JobSubmissionClient):  # type: ignore[misc]
    """Ray's client with timeouts, without which it waits for ever on a silent connection, and our errors."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        try:
            answer: requests.Response = super()._do_request(method, endpoint, timeout=REQUEST_S, **options)
            return answer
        except AuthenticationError as error:
            raise _refused(self._address, error) from error
        except (requests.ConnectionError, requests.Timeout) as error:
            remedy = "forward its port (ray dashboard, or kubectl port-forward), or give another --address"
            raise RunFailedError(f"no Ray cluster answers at {self._address}; {remedy}") from error

    def _raise_error(self, r: requests.Response) -> NoReturn:
        lines = [line for line in r.text.splitlines() if line.strip(" .")]  # tracebacks, one in another
        reason = lines[-1] if lines else "no reason given"
        if r.status_code == 404:
            remedy = f"`{COMMAND} list` shows what it knows; a head that was started anew has forgotten all"
            raise UsageError(f"{reason} on the cluster at {self._address}; {remedy}")
        raise RunFailedError(f"the cluster at {self._address} answered {r.status_code}: {reason}")


def _refused(address: str, error: AuthenticationError) -> UsageError:
    what = "takes another token" if "Invalid" in str(error) else "asks for a token, and none was found"
    remedy = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with the cluster's token"
    return UsageError(f"the cluster at {address} {what}; {remedy}")


def connect(address: str) -> Client:
    """Connect to a cluster. Raises RunFailedError if none answers, UsageError if trying again cannot help."""
    if not address.startswith(("http://", "https://")):
        raise UsageError(f"--address {address}: the dashboard's URL expected, as http://127.0.0.1:8265")
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray prefers it to its argument
    try:
        client = Client(address)
    except AuthenticationError as error:  # the token's file cannot be read
        raise _refused(address, error) from error
    except (requests.RequestException, RuntimeError, KeyError) as error:
        raise UsageError(f"--address {address}: what answers there is no Ray dashboard") from error
    if (theirs := client._server_ray_version) != ray.__version__:
        what = f"runs Ray {theirs}, and this is Ray {ray.__version__}"
        raise UsageError(f"the cluster at {address} {what}; requirements.lock pins the one for both")
    return client


def finished(job: JobDetails) -> bool:
    """Whether the job did all its work."""
    return job.status == JobStatus.SUCCEEDED or job.driver_exit_code in FINISHED


def line(job: JobDetails) -> str:
    """Describe a job in one line: its id, state, exit code and start."""
    began = datetime.fromtimestamp((job.start_time or 0) / 1000, UTC)
    code, stands = job.driver_exit_code, str(job.status)
    if code in FINISHED:
        stands = f"finished, {FINISHED[code]} ({code})"
    elif code is not None:
        stands += f", exit code {code}"
    return f"{job.submission_id} {stands}, begun {began:%Y-%m-%d %H:%M:%S} UTC"


class Log:
    """Prints a job's log once, though each connection sends it from the beginning."""

    def __init__(self) -> None:
        self.num_printed = 0

    async def tail(self, client: Client, job_id: str) -> None:
        """Print what is new, until the log ends, is silent for SILENCE_S, or the connection breaks."""
        received = 0
        with suppress(TimeoutError, ConnectionError, RuntimeError, aiohttp.ClientError):
            async with aclosing(client.tail_job_logs(job_id)) as chunks:
                while chunk := await asyncio.wait_for(anext(chunks, None), SILENCE_S):
                    sys.stdout.write(make_lines_visible(chunk[max(0, self.num_printed - received) :]))
                    sys.stdout.flush()
                    received += len(chunk)
                    self.num_printed = max(self.num_printed, received)


def follow(client: Client, job_id: str) -> int:
    """Print a job's log to its end, however often the connection breaks; returns the job's exit code."""
    log, heard = Log(), time.monotonic()
    try:
        while True:
            asyncio.run(log.tail(client, job_id))
            try:
                job = client.get_job_info(job_id)
                heard = time.monotonic()
            except UsageError as error:  # a new head does not know it
                raise RunFailedError(f"{error}; the same command goes on from where it stood") from error
            except RunFailedError as error:
                if time.monotonic() - heard > GIVE_UP_S:
                    raise
                say(f"{error}; {job_id} goes on, trying again")
            else:
                if job.status.is_terminal():
                    return _ended(job)
            time.sleep(PAUSE_S)
    except KeyboardInterrupt:
        say(f"detached, {job_id} goes on; the same command attaches, `{COMMAND} stop {job_id}` ends it")
        sys.exit(INTERRUPTED)


def _ended(job: JobDetails) -> int:
    """Return the exit code; say why the job failed where its log cannot."""
    code = job.driver_exit_code
    if job.status == JobStatus.STOPPED:
        return INTERRUPTED
    if code is not None and 0 <= code < 126:
        return int(code)
    no_python = "the head has no `python` on its PATH; start Ray there with its environment activated"
    say(f"{job.submission_id} {job.status}: {no_python if code == 127 else job.message}")
    return FAILED
