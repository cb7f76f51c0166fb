"""A page in the browser where a person labels images, text or rows of tables."""

from likely.inference.active.web.oracle import WebOracle, label_in_browser

__all__ = ["WebOracle", "label_in_browser"]
