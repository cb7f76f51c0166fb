"""Labels that a person gives in the browser."""

from __future__ import annotations

import importlib.util
import sys
import webbrowser
from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from likely.envs import DataError
from likely.inference.active.answers_log import AnswersLog
from likely.inference.active.errors import LabellingStopped
from likely.inference.active.oracle import Ints, Queries
from likely.inference.active.session import LabellingSession, check_keys
from likely.inference.active.web.desk import Desk
from likely.inference.active.web.rendering import KINDS, rendered
from likely.inference.engines.checks import check_bool, check_choice, is_int
from likely.inference.errors import OptionError

if TYPE_CHECKING:
    from likely.inference.active.web.server import Server

# A page that waits asks more often than this, in seconds.
_FAREWELL = 3.0


class WebOracle:
    """A person labels queries on a small page, served to this machine alone.

    The server starts with the first batch, writes the page's address to ``stream``, and serves all
    rounds; between them the page waits. It ends with `close` (or ``with``), or when the person
    quits. The address holds a secret: whoever has it can answer. Each answer is on disk before the
    next question is shown, and with an existing file the person goes on where they stopped; what
    was skipped is asked again when it comes up again. Needs the extra ``likely[web]``.

    Parameters
    ----------
    classes
        Names of the classes.
    kind : {"image", "text", "table"}
        What the items are.
    path
        File of answers (`AnswersLog`); None keeps them in memory alone, which a crash loses.
    items
        What the person is shown, by row of the pool (a sequence, array or data frame); by default
        the points of the queries. Images: arrays [H, W] or [H, W, 3 or 4], bytes or paths of
        files. Text: strings. Tables: rows of a data frame, mappings or vectors.
    question
        What the page asks.
    image_shape
        Shape of an image, for pools of flattened ones.
    columns
        Names of the entries of vectors.
    keys
        A character for each class, such as ``"ad"``; by default digits, then letters.
    review
        Whether a last look ends a batch, from which the person can go back; by default where more
        than one question is asked.
    port
        Where the server listens, 0 for any free port.
    open_browser
        Whether to open the page in the browser at once. On a machine shared with others they can
        read the address in the list of processes while the browser starts.
    stream
        Where the address is written; by default standard error.

    Attributes
    ----------
    url : str or None
        Address of the page while it is served.

    Raises
    ------
    DataError
        If classes, file or items cannot be used; when asked, if the queries have other classes.
    OptionError
        If an option cannot be used, or Flask is not installed.
    LabellingStopped
        When the person quits, or presses Ctrl-C at the terminal; its ``labels`` hold what was
        answered.

    Examples
    --------
    >>> oracle = WebOracle(("spam", "ham"), "text", path="answers.jsonl", items=["Buy!", "Hello"])
    >>> oracle.url is None
    True
    """

    def __init__(
        self,
        classes: Any,
        kind: str,
        *,
        path: str | PathLike[str] | None,
        items: Any = None,
        question: str = "Which class is it?",
        image_shape: tuple[int, ...] | None = None,
        columns: Sequence[str] | None = None,
        keys: Sequence[str] | None = None,
        review: bool | None = None,
        port: int = 0,
        open_browser: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        check_choice("kind", kind, KINDS)
        check_bool("open_browser", open_browser)
        if not is_int(port) or not 0 <= port < 2**16:
            raise OptionError(f"port must be an integer from 0 to 65535, got {port!r}")
        if image_shape is not None and not (
            isinstance(image_shape, tuple | list) and all(is_int(n) and n > 0 for n in image_shape)
        ):
            raise OptionError(f"image_shape must be a shape such as (28, 28), got {image_shape!r}")
        if review is not None:
            check_bool("review", review)
        if isinstance(columns, str):
            raise DataError(f"columns: expected a list of names, got {columns!r}")
        require_flask()
        self.log = AnswersLog(path, classes)
        self.keys = check_keys(keys, self.log.names)
        self.kind, self.items, self.question, self.review = kind, items, question, review
        self._shape, self._columns = image_shape, columns
        self._port, self._open, self._stream = port, open_browser, stream
        self._desk: Desk | None = None
        self._server: Server | None = None

    @property
    def url(self) -> str | None:
        """Address of the page while it is served."""
        return None if self._server is None else self._server.url

    def __call__(self, queries: Queries) -> Ints:
        """Wait for a person's answers to the queries that have none yet."""
        session = LabellingSession(queries, self.log, self.items, self.review)
        if session.done:
            return session.labels
        desk = self._desk if self._desk is not None else self._start()
        try:
            finished = desk.serve(session)
        except KeyboardInterrupt:
            desk.end("stopped")
            finished = False
        except Exception:
            self.close()
            raise
        if not finished:
            self.close()
            raise LabellingStopped(session.labels)
        return session.labels

    def close(self) -> None:
        """Tell the page that all is done, and stop the server. A later batch starts another."""
        if self._desk is not None and self._server is not None:
            self._desk.end("finished")
            self._desk.wait_until_told(_FAREWELL)
            self._server.close()
        self._desk = self._server = None

    def __enter__(self) -> WebOracle:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start(self) -> Desk:
        from likely.inference.active.web.server import Server

        if self.kind == "image":
            # Else the first image would wait for it.
            import matplotlib.image  # noqa: F401

        def show(item: Any) -> dict[str, Any]:
            return rendered(item, self.kind, image_shape=self._shape, columns=self._columns)

        kept = f"in {self.log.path.name}" if self.log.path else "by the program"
        words = {"title": "Labelling", "question": self.question, "kept": kept}
        desk = Desk(self.log.names, show, self.keys)
        self._server = Server(desk, words, self._port)
        self._desk = desk
        stream = self._stream or sys.stderr
        stream.write(f"Label at {self._server.url}\n")
        stream.flush()
        if self._open:
            webbrowser.open(self._server.url)
        return desk


def label_in_browser(
    points: Any, classes: Any, kind: str, *, path: str | PathLike[str] | None, **options: Any
) -> Ints:
    """Let a person label all points on a page in the browser.

    Parameters
    ----------
    points
        What is labelled, [n]: images, texts or rows.
    classes
        Names of the classes.
    kind : {"image", "text", "table"}
        What the points are.
    path
        File of answers; with an existing one the person goes on where they stopped.
    **options
        Those of `WebOracle`.

    Returns
    -------
    ndarray
        int64 [n]: positions of classes, −1 where the person skipped or had quit.

    Raises
    ------
    DataError, OptionError
        As `WebOracle`.
    """
    if isinstance(points, str) or not hasattr(points, "__len__") or not len(points):
        raise DataError("points: expected at least one thing to label")
    with WebOracle(classes, kind, path=path, **options) as oracle:
        queries = Queries(np.arange(len(points)), points, classes=oracle.log.classes)
        try:
            return oracle(queries)
        except LabellingStopped as stopped:
            return stopped.labels


def require_flask() -> None:
    """Raise an `OptionError` where Flask is not installed."""
    if importlib.util.find_spec("flask") is None:
        raise OptionError(
            "the page needs the package flask, which is not installed: pip install 'likely[web]'"
        )
