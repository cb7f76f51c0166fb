"""Pictures of environments as arrays of pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

WALL: Colour = (60, 60, 70)
AGENT: Colour = (31, 119, 180)
COLOURS: dict[str, Colour] = {
    ".": (240, 240, 236),
    "S": (214, 228, 240),
    "G": (120, 190, 120),
    "T": (214, 96, 77),
    "#": WALL,
}
# What green and red mean is drawn as well, for those who cannot tell them apart.
GOAL_MARK: Colour = (44, 110, 60)
TRAP_MARK: Colour = (120, 30, 24)
ROAD: Colour = (225, 225, 220)
TREE: Colour = (70, 130, 80)
TRUNK: Colour = (120, 84, 54)
LINE: Colour = (200, 200, 195)


def draw_grid(layout: tuple[str, ...], agent: tuple[int, int] | None, size: int = 32) -> Picture:
    """Cells as squares of ``size`` pixels, the agent as a disc: [H, W, 3].

    Goals are green with a ring, traps red with a cross, starts blue, walls dark.
    """
    cells = np.array([[COLOURS[mark] for mark in line] for line in layout], dtype=np.uint8)
    picture = cells.repeat(size, 0).repeat(size, 1)
    picture[::size] = picture[:, ::size] = picture[-1] = picture[:, -1] = LINE
    for row, line in enumerate(layout):
        for column, mark in enumerate(line):
            centre = ((row + 0.5) * size, (column + 0.5) * size)
            if mark == "G":
                _disc(picture, centre, 0.3 * size, GOAL_MARK)
                _disc(picture, centre, 0.2 * size, COLOURS["G"])
            elif mark == "T":
                _cross(picture, centre, 0.25 * size, TRAP_MARK)
    if agent is not None:
        row, column = agent
        _disc(picture, ((row + 0.5) * size, (column + 0.5) * size), 0.32 * size, AGENT)
    return picture


def draw_fork(
    path: list[tuple[float, float]], half_width: float, crashed: bool, size: int = 240
) -> Picture:
    """The way to the tree: start at the bottom, tree at the top; [H, W, 3].

    Whoever is under the crown at the end has crashed, which a cross marks.

    Parameters
    ----------
    path
        (distance to the tree, offset) at each step so far.
    half_width
        Half the tree's width.
    crashed
        Whether the last point is a crash.
    size
        Height and width in pixels.
    """
    picture = np.empty((size, size, 3), dtype=np.uint8)
    picture[:] = ROAD
    top, length, unit = 0.15 * size, 0.75 * size, 0.4 * size
    for side in (-1, 0, 1):
        column = round(size / 2 + side * unit)
        picture[round(top) :, column - 1 : column + 1] = LINE
    rows, columns = np.ogrid[:size, :size]
    crown = ((columns - size / 2) / (half_width * unit)) ** 2 + ((rows - top) / top) ** 2 <= 1
    picture[crown & (rows < round(top))] = TREE
    picture[round(0.5 * top) : round(top), round(0.47 * size) : round(0.53 * size)] = TRUNK
    for distance, offset in path:
        place = (top + distance * length, size / 2 + offset * unit)
        _disc(picture, place, 0.02 * size, AGENT)
    if path:
        distance, offset = path[-1]
        place = (top + distance * length, size / 2 + offset * unit)
        _disc(picture, place, 0.04 * size, COLOURS["T"] if crashed else AGENT)
        if crashed:
            _cross(picture, place, 0.06 * size, TRAP_MARK)
    return picture


def _cross(picture: Picture, centre: tuple[float, float], reach: float, colour: Colour) -> None:
    rows, columns = np.ogrid[: picture.shape[0], : picture.shape[1]]
    down, right = abs(rows - centre[0]), abs(columns - centre[1])
    inside = (abs(down - right) <= 0.2 * reach) & (down <= reach) & (right <= reach)
    picture[inside] = colour


def _disc(picture: Picture, centre: tuple[float, float], radius: float, colour: Colour) -> None:
    rows, columns = np.ogrid[: picture.shape[0], : picture.shape[1]]
    inside = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2
    picture[inside] = colour
