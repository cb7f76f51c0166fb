"""`CONFIGS`, the one list of programs, and `CASES`, each with every engine that can fit it."""

from __future__ import annotations

from cases import ENGINES, Case
from configs_people import PEOPLE
from configs_plain import PLAIN
from configs_written import WRITTEN

CONFIGS = [*PLAIN, *PEOPLE, *WRITTEN]
CASES = [
    Case(config, by)
    for config in CONFIGS
    for by in ENGINES
    if by.everywhere
    and by.available
    and by.name not in config.unfit
    and (by.keeps_params or not config.params)
]
