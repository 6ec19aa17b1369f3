"""Who may connect: only this machine, or anybody with the password."""

import asyncio
import hmac
import os
import socket
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from getpass import getpass
from ipaddress import ip_address
from typing import Any

from maskbatch.errors import UsageError

PASSWORD = "MASKBATCH_UI_PASSWORD"  # noqa: S105 - a variable's name
LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names of this machine in a URL."""
WRONG_PASSWORD_S = 1.0
"""Seconds before a wrong password is refused."""

Login = Callable[[str, str], Any]  # an async function that returns a bool; Gradio's types lack it


@dataclass(frozen=True, kw_only=True, slots=True)
class Listener:
    """Where the server listens, and who may connect."""

    host: str
    port: int | None = None
    """None: 7860, or the next free port."""
    login: Login | None = None
    """Checks a name and a password; None asks for neither."""
    names: Collection[str] | None = None
    """Names of the server that a request may use; None for any."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(host: str, port: int | None) -> None:
    """Raises UsageError if this machine cannot listen there."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port or 0), family=family).close()
    except OSError as error:
        where = f"--host {host}" + (f" --port {port}" if port else "")
        raise UsageError(f"{where}: cannot listen there ({error.strerror}); choose another") from error


def find_public_host(host: str) -> str:
    """`host`, or, where it means all addresses of this machine, one that others can reach."""
    if host != "0.0.0.0":  # noqa: S104
        return host
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
            route.connect(("192.0.2.1", 9))  # sends nothing: the system only picks an address of its own
            return str(route.getsockname()[0])
    except OSError:
        return socket.gethostname()


def make_login(*, exposed: bool) -> Login | None:
    """Accept any name with the password from the environment or the terminal.

    Returns None if no password is set and only this machine can connect; if others can, raises UsageError.
    """
    password = os.environ.get(PASSWORD)
    if not password and not exposed:
        return None
    if not password and sys.stdin.isatty():
        password = getpass("Password for visitors: ")
    if not password:
        raise UsageError(f"--host lets other machines connect, which needs a password: set {PASSWORD}")
    expected = password.encode()

    async def check_login(name: str, given: str) -> bool:
        if name and hmac.compare_digest(given.encode(), expected):
            return True
        await asyncio.sleep(WRONG_PASSWORD_S)
        return False

    return check_login
