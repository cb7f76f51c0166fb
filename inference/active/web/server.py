"""The server behind the page: on this machine alone, and for whoever has its address."""

from __future__ import annotations

import secrets
import socket
import threading
from importlib.resources import files
from typing import Any

from flask import Flask, Response, abort, jsonify, render_template_string, request
from werkzeug.serving import WSGIRequestHandler, make_server

from likely.inference.active.web.desk import Desk, StaleError
from likely.inference.errors import OptionError

HOST = "127.0.0.1"
_MOST_BYTES = 4096
# How long an answer waits for the next question, in seconds.
_SOON = 0.3


def application(desk: Desk, token: str, words: dict[str, str]) -> Flask:
    """The page and its two calls, below an address that holds a secret.

    A page of another site cannot use them: it does not know the token; its requests name another
    origin; and a name that it makes point to this machine is none of the trusted hosts.

    Parameters
    ----------
    desk
        What is shown and answered.
    token
        The secret.
    words
        ``title``, ``question`` and ``kept`` (where answers go) for the page.
    """
    app = Flask(__name__)
    app.config.update(TRUSTED_HOSTS=[HOST, "localhost"], MAX_CONTENT_LENGTH=_MOST_BYTES)
    page = (files("likely.inference.active.web") / "page.html").read_text(encoding="utf-8")

    @app.before_request
    def check() -> None:
        given = (request.view_args or {}).get("token", "")
        # Reading the host is what compares it with the trusted ones.
        host = request.host
        if not secrets.compare_digest(given.encode(), token.encode()):
            abort(404)
        origin = request.headers.get("Origin")
        if origin is not None and origin != f"http://{host}":
            abort(403)

    @app.after_request
    def guard(response: Response) -> Response:
        # The page's own policy, with its nonce, comes from the page.
        response.headers.setdefault("Content-Security-Policy", "default-src 'none'")
        response.headers["Cache-Control"] = "no-store"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["X-Frame-Options"] = "DENY"
        return response

    @app.get("/<token>/")
    def show_page(token: str) -> Response:
        nonce = secrets.token_urlsafe(16)
        text = render_template_string(page, nonce=nonce, classes=desk.classes, **words)
        response = Response(text, mimetype="text/html")
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
            "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        )
        return response

    @app.get("/<token>/state")
    def show_state(token: str) -> Response:
        return answer()

    @app.post("/<token>/act")
    def act(token: str) -> Response:
        said = request.get_json()
        if not isinstance(said, dict):
            abort(400)
        try:
            desk.act(said.get("do", ""), said.get("ticket"), said.get("label"))
        except ValueError as error:
            abort(400, str(error))
        except StaleError:
            return answer(409)
        desk.settle(_SOON)
        return answer()

    def answer(status: int = 200) -> Response:
        state = desk.state(request.args.get("have", type=int))
        response = jsonify(state)
        response.status_code = status
        if state["phase"] in ("stopped", "finished", "failed"):
            response.call_on_close(desk.told)
        return response

    return app


class Server:
    """A server in a thread of its own.

    Parameters
    ----------
    desk, words
        As for `application`.
    port
        Where it listens; 0 for any free port.

    Raises
    ------
    OptionError
        If the port is taken.
    """

    def __init__(self, desk: Desk, words: dict[str, str], port: int = 0) -> None:
        token = secrets.token_urlsafe(24)
        app = application(desk, token, words)
        # Werkzeug ends the whole process where a port is taken, so it is given an open socket.
        try:
            listening = socket.create_server((HOST, port))
        except OSError as error:
            raise OptionError(f"port must be one that is free, got {port}: {error}") from error
        with listening:
            port = listening.getsockname()[1]
            self._server = make_server(
                HOST,
                port,
                app,
                threaded=True,
                request_handler=_Quiet,
                fd=listening.fileno(),
            )
        self.url = f"http://{HOST}:{port}/{token}/"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening; returns when the port is free."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Quiet(WSGIRequestHandler):
    """No line on the terminal for each request, and no thread for ever on an idle connection."""

    timeout = 30

    def log(self, type: str, message: str, *args: Any) -> None:
        """Say nothing."""
