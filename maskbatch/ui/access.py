"""Who may connect: this machine alone, or anybody who gives the password."""

import asyncio
import hmac
import os
import socket
import sys
from collections.abc import Callable
from getpass import getpass
from ipaddress import ip_address
from typing import Any

from maskbatch.errors import UsageError

PASSWORD = "MASKBATCH_UI_PASSWORD"  # noqa: S105 - a variable's name
LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""The names by which a page of this machine is asked for."""
WRONG_PASSWORD_S = 1.0
"""How long a wrong one takes to be refused."""

Login = Callable[[str, str], Any]  # a coroutine's bool, which Gradio takes and does not declare


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(host: str, port: int | None) -> None:
    """Raises UsageError where nothing can listen there."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port or 0), family=family).close()
    except OSError as error:
        where = f"--host {host}" + (f" --port {port}" if port else "")
        raise UsageError(f"{where}: cannot listen there ({error.strerror}); give another one") from error


def reachable(host: str) -> str:
    """The `host`; where it stands for all addresses of this machine, one that others can ask for."""
    if host != "0.0.0.0":  # noqa: S104
        return host
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
            way.connect(("192.0.2.1", 9))  # to nobody: the system only says by which of its addresses
            return str(way.getsockname()[0])
    except OSError:
        return socket.gethostname()


def login(*, exposed: bool) -> Login | None:
    """Lets in any name with the password; None where none is set and other machines cannot connect.

    The password is the environment's, or asked for on a terminal. Raises UsageError where one is needed
    and neither gives it.
    """
    password = os.environ.get(PASSWORD)
    if not password and not exposed:
        return None
    if not password and sys.stdin.isatty():
        password = getpass("Password that visitors shall give: ")
    if not password:
        raise UsageError(f"--host lets other machines connect, which needs a password: set {PASSWORD}")
    right = password.encode()

    async def known(name: str, given: str) -> bool:
        if name and hmac.compare_digest(given.encode(), right):
            return True
        await asyncio.sleep(WRONG_PASSWORD_S)
        return False

    return known
