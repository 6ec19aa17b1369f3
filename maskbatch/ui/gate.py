"""What stands before Gradio: only the requests of the page itself come in, none too large.

Gradio can do far more than this page needs: serve files, fetch URLs, run functions by name, describe
itself to programs. What is not listed here does not exist for a visitor. Pictures travel inside the
page's own events, so that no file is ever served.
"""

import re
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN = re.compile(
    r"/|/(?:assets|static)/.+|/(?:theme\.css|favicon\.ico|login|logout)"
    r"|/gradio_api/(?:startup-events|heartbeat/\w+|queue/join|queue/data|upload|upload_progress)"
)
"""Paths that the page asks for."""
UPLOAD = "/gradio_api/upload"
MAX_EVENT_BYTES = 2**20
"""Largest body that is no upload; an event of the page has some hundred bytes."""
ENVELOPE_BYTES = 2**16
"""What a form adds to the file in it."""
HEADERS = {
    # the browser itself then asks no other host for anything; Gradio needs what is unsafe here
    "Content-Security-Policy": "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; "
    "frame-ancestors 'none'; form-action 'self'; base-uri 'self'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Gate:
    """ASGI middleware; `hosts` are the names that this server answers to, None for any."""

    def __init__(self, app: ASGIApp, *, hosts: Collection[str] | None, max_bytes: int) -> None:
        self.app, self.hosts, self.max_bytes = app, hosts, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refused = self._refusal(scope)
        await (refused or self.app)(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers, path = Headers(scope=scope), scope["path"]
        host = urlsplit(f"//{headers.get('host', '')}")
        if self.hosts is not None and host.hostname not in self.hosts:  # a foreign name that leads here
            return PlainTextResponse(f"This server answers to {', '.join(sorted(self.hosts))}.", 403)
        if not OPEN.fullmatch(path):
            return PlainTextResponse("Not found", 404)
        if scope["method"] in ("GET", "HEAD"):
            return None
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host.netloc:  # another site's page
            return PlainTextResponse("Only this server's own page may send anything.", 403)
        limit = self.max_bytes + ENVELOPE_BYTES if path.startswith(UPLOAD) else MAX_EVENT_BYTES
        size = headers.get("content-length", "")
        if not size.isdecimal():
            return PlainTextResponse("The size of what is sent has to be said first.", 411)
        if int(size) > limit:
            return PlainTextResponse(f"{int(size):,} bytes are too many; {limit:,} are allowed.", 413)
        return None
