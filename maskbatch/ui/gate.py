"""Middleware in front of Gradio that lets in only the page's own requests, and none that is too large.

Pictures travel inside the page's events, so the server never serves a file.
"""

import asyncio
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maskbatch.ui.brake import Brake
from maskbatch.ui.gradio_internals import LOGIN_PATH, PAGE_PATHS, UPLOAD_PATH

MAX_EVENT_BYTES = 2**20
"""Largest body of a request that is no upload; the page's events have some hundred bytes."""
ENVELOPE_BYTES = 2**16
"""What a form may add to the file in it."""
HEADERS = {
    # keeps the browser from asking other hosts; Gradio needs the unsafe parts
    "Content-Security-Policy": "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; "
    "frame-ancestors 'none'; form-action 'self'; base-uri 'self'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Gate:
    """ASGI middleware; `names` are the server's names that a request may use, None for any."""

    def __init__(self, app: ASGIApp, *, names: Collection[str] | None, max_bytes: int) -> None:
        self.app, self.names, self.max_bytes = app, names, max_bytes
        self._brake = Brake()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
                if is_login and message["status"] == 200:
                    self._brake.accept(address)
            await send(message)

        is_login = scope["method"] == "POST" and scope["path"] == LOGIN_PATH
        address = (scope.get("client") or ("",))[0]
        refusal = self._refuse(scope) or (await self._slow_down(address) if is_login else None)
        await (refusal or self.app)(scope, receive, send_with_headers)

    async def _slow_down(self, address: str) -> PlainTextResponse | None:
        """Let this attempt to log in wait for its turn, or refuse it."""
        wait_s = self._brake.reserve(address)
        if wait_s is None:
            text = "Too many wrong passwords were given; try again in a minute."
            return PlainTextResponse(text, 429, {"Retry-After": "60"})
        await asyncio.sleep(wait_s)
        return None

    def _refuse(self, scope: Scope) -> PlainTextResponse | None:
        headers, path = Headers(scope=scope), scope["path"]
        host = urlsplit(f"//{headers.get('host', '')}")
        if self.names is not None and host.hostname not in self.names:  # a foreign name for this address
            return PlainTextResponse(f"Use one of this server's names: {', '.join(sorted(self.names))}.", 403)
        if not PAGE_PATHS.fullmatch(path):
            return PlainTextResponse("Not found", 404)
        if scope["method"] in ("GET", "HEAD"):
            return None
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host.netloc:  # another site's page
            return PlainTextResponse("Only this server's own page may send requests.", 403)
        limit = self.max_bytes + ENVELOPE_BYTES if path.startswith(UPLOAD_PATH) else MAX_EVENT_BYTES
        size = headers.get("content-length", "")
        if not size.isdecimal():
            return PlainTextResponse("A Content-Length header is required.", 411)
        if int(size) > limit:
            return PlainTextResponse(f"The request has {int(size):,} bytes, {limit:,} are allowed.", 413)
        return None
