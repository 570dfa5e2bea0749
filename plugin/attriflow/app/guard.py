"""What is let in: requests for the hosts that are served, no larger than they need be; and who is connected."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import nullcontext
from typing import Any
from urllib.parse import parse_qs, urlsplit

from attriflow.app.jobs import Jobs
from attriflow.errors import InputError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
ANY = "*"
MOST_BYTES = 16 * 2**20
"""Of one request: a form, or a file. Texts and options are far smaller."""
_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


def served_hosts(host: str, allowed: Iterable[str] = ()) -> frozenset[str]:
    """Names by which the app may be asked for: this machine's own, the address it listens at, and those given.

    Raises:
        InputError: A name with a port, a scheme or a path.
    """
    names = {*LOOPBACK, _bare(host)}
    for name in allowed:
        if name != ANY and (not name or urlsplit(f"//{_bracketed(name)}").hostname != _bare(name)):
            raise InputError(f"an allowed host is a name or an address without port and scheme, or '*', not {name!r}")
        names.add(_bare(name))
    return frozenset(names)


class Guard:
    """ASGI middleware: refuses other hosts (DNS rebinding) and large requests, and notes who waits for results.

    A page of another site can make a browser send requests to this machine, under a name that it lets point here: the
    name then stands in `Host` (and the page's own in `Origin`), and is none of ours.
    """

    def __init__(self, app: _App, hosts: frozenset[str], jobs: Jobs) -> None:
        """Around an app that serves these hosts."""
        self.app, self.hosts, self.jobs = app, hosts, jobs

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Hand a request on, or answer it."""
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        refused = self._refusal(scope)
        if refused is not None:
            if scope["type"] == "websocket":
                return await send({"type": "websocket.close", "code": 1008})
            return await _answer(send, *refused)
        session = _session(scope)
        with nullcontext() if session is None else self.jobs.listening(session):
            return await self.app(scope, receive, send)

    def _refusal(self, scope: _Scope) -> tuple[int, str] | None:
        """Status and reason; None where there is nothing against a request."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        hosts = [value for name, value in scope["headers"] if name.lower() == b"host"]
        if len(hosts) != 1 or not self._serves(f"//{headers['host']}"):
            return 421, "this app does not serve that host: attriflow app --allowed-hosts NAME allows one"
        if "origin" in headers and not self._serves(headers["origin"]):
            return 403, "this app does not answer pages of other sites"
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers:
            return 411, "a request must tell its length"
        if not length.isdecimal() or int(length) > MOST_BYTES:
            return 413, f"a request may have {MOST_BYTES // 2**20} MB at most"
        return None

    def _serves(self, address: str) -> bool:
        try:
            name = urlsplit(address).hostname
        except ValueError:  # brackets that do not close
            return False
        return name is not None and (ANY in self.hosts or name.rstrip(".") in self.hosts)


def _session(scope: _Scope) -> str | None:
    """The session of a request that stays open while a page waits for results, or while it is shown."""
    parts = str(scope.get("path", "")).rstrip("/").split("/")
    if parts[-2:] == ["queue", "data"]:
        found = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("session_hash", [])
        return found[0] if found else None
    return parts[-1] if parts[-2:-1] == ["heartbeat"] else None


async def _answer(send: _Send, status: int, reason: str) -> None:
    body = f"{reason}\n".encode()
    kinds = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*kinds, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})


def _bare(name: str) -> str:
    return name.strip().removeprefix("[").removesuffix("]").rstrip(".").lower()


def _bracketed(name: str) -> str:
    bare = _bare(name)
    return f"[{bare}]" if ":" in bare and bare.count(":") > 1 else bare
