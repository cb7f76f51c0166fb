"""What the lesson scripts share: their one option, and how a figure is made and saved."""

import argparse
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

from likely.inference.diagnostics.style import COLOURS, bare

__all__ = ["COLOURS", "canvas", "output_folder", "save"]


def output_folder(description):
    """Folder for the figure, ``examples/output`` unless the command line says otherwise."""
    parser = argparse.ArgumentParser(description=description.strip().splitlines()[0])
    default = Path(__file__).resolve().parent / "output"
    parser.add_argument("--output", type=Path, default=default, help="folder for the figure")
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    mpl.use("Agg")
    return folder


def canvas(columns=2, *, width=9.0, height=3.8, **options):
    """A figure with one row of axes, without the frames' upper and right sides."""
    figure, axes = plt.subplots(
        1, columns, figsize=(width, height), layout="constrained", squeeze=False, **options
    )
    for ax in axes[0]:
        bare(ax)
    return figure, list(axes[0])


def save(figure, folder, name):
    """Write the figure to ``folder/name.png`` at 150 dpi, and say so."""
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=150)
    plt.close(figure)
    print(f"\nFigure: {path.name}")
