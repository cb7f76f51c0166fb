"""How the command says that something is wrong: one line on standard error, and an exit code."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

from likely.envs import DataError
from likely.inference.errors import InferenceError, OptionError, ProgramError


class BadInputError(click.ClickException):
    """Files or options that cannot be used; exit code 2."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Print one line, whatever the message."""
        click.echo(f"Error: {one_line(self.format_message())}", file=file, err=True)


class FailedError(BadInputError):
    """Good input and yet no fit; exit code 1."""

    exit_code = 1


def one_line(text: str) -> str:
    """Text without line breaks, nor characters that would steer a terminal."""
    text = " ".join(text.split())
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn the project's errors into lines for the user.

    Raises
    ------
    BadInputError
        For data, options or files that cannot be used.
    FailedError
        For a fit that fails.
    """
    try:
        yield
    except (DataError, OptionError, ProgramError) as error:
        raise BadInputError(str(error)) from error
    except InferenceError as error:
        raise FailedError(str(error)) from error
    except BrokenPipeError:  # whoever read the output has gone; click ends quietly
        raise
    except OSError as error:
        raise BadInputError(str(error)) from error


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Print warnings as lines on standard error, after what was going on."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for text in dict.fromkeys(
        one_line(str(found.message)) for found in caught if issubclass(found.category, UserWarning)
    ):
        click.echo(f"Warning: {text}", err=True)
