"""Environments and the errors that every layer above shares. Nothing here knows Pyro."""

from likely.envs.errors import DataError

__all__ = ["DataError"]
