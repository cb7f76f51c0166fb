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
        click.echo(f"Error: {' '.join(self.format_message().split())}", file=file, err=True)


class FailedError(BadInputError):
    """Good input and yet no fit; exit code 1."""

    exit_code = 1


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
    except OSError as error:
        raise BadInputError(str(error)) from error


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Print warnings as lines on standard error, after what was going on."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for text in dict.fromkeys(
        " ".join(str(found.message).split())
        for found in caught
        if issubclass(found.category, UserWarning)
    ):
        click.echo(f"Warning: {text}", err=True)
