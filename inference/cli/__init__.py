"""The command ``likely``: what people run most often, without writing a program."""

from __future__ import annotations

import click

from likely.inference.cli.crowd_command import crowd


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="likely", message="%(package)s %(version)s")
def main() -> None:
    """Fit models to data in files."""


main.add_command(crowd)

__all__ = ["main"]
