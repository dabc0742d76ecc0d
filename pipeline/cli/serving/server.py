"""A server of a page on which photos are dropped, and of predictions as JSON."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from features.errors import CachedFeaturesError, RequestError, UnreadableImage, called, missing_extra, option
from features.images.bounds import MAX_PIXELS
from features.options import takes
from features.runtime.log import log
from features.runtime.machine import cores

from ...deploy.predictor import Predictor
from ...options import ServeOptions
from ...runs.html_page import fill_page
from .examination import examine
from .interface import describe_interface

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

HOST, PORT = "127.0.0.1", 8765
MOST_BYTES = 32 << 20  # of an upload
MOST_WAITING = 64  # requests at once; further ones are asked to come again,
MOST_HELD = 256 << 20  # and so are those that are being read when all uploads have so many bytes
SECONDS = 30.0  # in which an upload must have arrived
_BUSY = "too many requests at once; ask again"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}


@takes(ServeOptions)
def serve(run: str | Path, **options: Unpack[ServeOptions]) -> None:
    """Serve a page about a trained head, and its predictions as JSON, until Ctrl-C.

    Parameters
    ----------
    run : path-like
        The folder of a trained head.
    **options

    Raises
    ------
    RequestError
        If there is no such run, the port is no port, or the extra ``serve`` is not installed.
    """
    for package in ("starlette", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "serve", "a server")
    import uvicorn

    host, port = options.get("host", HOST), options.get("port", PORT)
    if not 0 < port < 65536:
        raise RequestError(f"{called('port')} must be from 1 to 65535; got {port}. Leave it out for {PORT}.")
    limit = options.get("max_pixels", MAX_PIXELS)
    # Listening begins before the base is loaded: nobody else takes the port meanwhile, and whoever asks early waits.
    with (
        _listen(host, port) as listening,
        Predictor(run, options.get("weights"), options.get("joblib", False), limit) as predictor,
    ):
        predictor.load()
        if host not in _LOOPBACK:
            log.warning(f"anyone who reaches {host}:{port} can use this server: it asks for no password.")
        shown = f"[{host}]" if ":" in host else host
        log.info(
            f"serves   http://{shown}:{port}/ ({predictor.trained.name}, {', '.join(predictor.class_names)}). Ctrl-C ends it"
        )
        app = make_app(predictor, host)
        config = uvicorn.Config(app, log_level="warning", timeout_keep_alive=5, server_header=False)
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C, once what was asked is answered
            uvicorn.Server(config).run(sockets=[listening])
    log.info("done     the server has ended")


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there; raise RequestError if none can, before a head is loaded for it."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise RequestError(
            f"{called('host')} and {called('port')} must be where a server can listen; {host}:{port} is not ({why}). Choose another: "
            f"{option('port', port % 65535 + 1)}"
        ) from None


def make_app(predictor: Predictor, host: str = HOST) -> Starlette:
    """Return the application: ``/`` the page, ``/predict``, ``/openapi.json``, ``/docs`` and ``/health``.

    Nothing is written to disk. To be asked by another name than the given host's is refused, so that no page of another site
    that resolves its own name to this machine can ask (DNS rebinding).
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse
    from starlette.routing import Route

    interface = describe_interface(predictor.class_names, MOST_BYTES)
    told = {
        "title": predictor.trained.folder.name,
        "head": predictor.trained.name,
        "classes": predictor.class_names,
        "level": predictor.trained.sets and predictor.trained.sets.level,
        "knows": predictor.trained.novelty is not None,
        "most_bytes": MOST_BYTES,
    }
    page = _html("serve", told)
    docs = _html("docs", {"interface": json.dumps(interface, indent=2), "most_bytes": MOST_BYTES})
    uploads = _Uploads(predictor)

    async def show(request: Request) -> Response:
        return HTMLResponse(page if request.url.path == "/" else docs, headers=_HEADERS)

    async def tell(_: Request) -> Response:
        return JSONResponse(interface, headers=_HEADERS)

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok", headers=_HEADERS)

    routes = [
        Route("/", show),
        Route("/docs", show),
        Route("/openapi.json", tell),
        Route("/health", health),
        Route("/predict", uploads.predict, methods=["POST"]),
    ]
    hosts = [*_LOOPBACK, "[::1]", host] if host in _LOOPBACK else ["*"]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)])


class _Uploads:
    """The answers to uploaded images, of which so many are examined at once as there are cores."""

    def __init__(self, predictor: Predictor):
        self._predictor, self._room, self._waiting = predictor, asyncio.Semaphore(max(2, cores())), 0
        self._held = 0  # bytes of all uploads

    async def predict(self, request: Request) -> Response:
        """Answer ``POST /predict``."""
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse

        self._waiting += 1
        data, name = bytearray(), request.query_params.get("name", "image")[:200]
        try:
            if self._waiting > MOST_WAITING:
                raise _Refused(503, _BUSY)
            await self._read(request, data)
            details = request.query_params.get("details", "") in ("1", "true")
            async with self._room:
                found = await run_in_threadpool(examine, self._predictor, bytes(data), name, details)
            return JSONResponse(found, headers=_HEADERS)
        except _Refused as error:
            again = {"Retry-After": "1"} if error.status == 503 else {}
            return JSONResponse({"error": str(error)}, error.status, _HEADERS | again)
        except UnreadableImage as error:
            return JSONResponse({"error": f"the image cannot be used: {error}"}, 422, _HEADERS)
        except CachedFeaturesError as error:
            log.error(f"{name}: {error}")
            return JSONResponse({"error": str(error)}, 500, _HEADERS)
        finally:
            self._waiting -= 1
            self._held -= len(data)

    async def _read(self, request: Request, data: bytearray) -> None:
        """Append what is uploaded, at most `MOST_BYTES` and within `SECONDS`."""
        too_large = _Refused(413, f"an image must have at most {MOST_BYTES:,} bytes; got more")
        if request.headers.get("content-type", "").lower().startswith("multipart/"):
            raise _Refused(
                415, "the body must be the image's file itself; got a form. For instance: curl --data-binary @photo.jpg"
            )
        claimed = request.headers.get("content-length", "")
        if claimed.isdecimal() and int(claimed) > MOST_BYTES:
            raise too_large
        try:
            async with asyncio.timeout(SECONDS):
                async for chunk in request.stream():
                    self._held += len(chunk)
                    data += chunk
                    if len(data) > MOST_BYTES:
                        raise too_large
                    if self._held > MOST_HELD:
                        raise _Refused(503, _BUSY)
        except TimeoutError:
            raise _Refused(408, f"an image must arrive within {SECONDS:.0f} s; it did not") from None
        if not data:
            raise _Refused(422, "the image must be the body of the request; got nothing")


class _Refused(Exception):
    """An upload that is not taken.

    Attributes
    ----------
    status : int
        HTTP status.
    """

    def __init__(self, status: int, why: str):
        super().__init__(why)
        self.status = status


def _html(name: str, variables: dict[str, Any]) -> str:
    return fill_page(__package__, name, variables, connect="'self'")
