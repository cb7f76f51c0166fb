import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from likely.envs import DataError
from likely.models.crowd import Annotations, alpha_interval, krippendorff_alpha

# Four observers, twelve units: the example of Krippendorff (2011), "Computing Krippendorff's
# alpha-reliability", section C, with the values of alpha printed there.
OBSERVED = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]


def published(as_text=False):
    rows = [
        (unit, observer, str(value) if as_text else value)
        for observer, values in enumerate(OBSERVED)
        for unit, value in enumerate(values)
        if value is not None
    ]
    return Annotations.from_arrays(*zip(*rows, strict=True))


@pytest.mark.parametrize(
    ("level", "alpha"),
    [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849), ("ratio", 0.797)],
)
@pytest.mark.parametrize("as_text", [False, True])
def test_published_values(level, alpha, as_text):
    assert krippendorff_alpha(published(as_text), level) == pytest.approx(alpha, abs=5e-4)


def by_pairs(crowd):
    """Nominal alpha from its definition: disagreement seen over disagreement by chance."""
    by_task = {}
    for task, label in zip(crowd.task.tolist(), crowd.label.tolist(), strict=True):
        by_task.setdefault(task, []).append(label)
    units = [labels for labels in by_task.values() if len(labels) > 1]
    seen = sum(
        sum(a != b for a, b in itertools.permutations(labels, 2)) / (len(labels) - 1)
        for labels in units
    )
    pool = [label for labels in units for label in labels]
    chance = sum(a != b for a, b in itertools.permutations(pool, 2)) / (len(pool) - 1)
    return 1 - seen / chance


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), min_size=4, max_size=25))
def test_nominal_alpha_is_its_definition(rows):
    task, label = zip(*rows, strict=True)
    crowd = Annotations.from_arrays(task, range(len(rows)), label)
    counts = np.bincount(task, minlength=6)
    pairable = {name for t, name in rows if counts[t] > 1}
    if len(pairable) < 2:
        with pytest.raises(DataError, match=r"two labels|are equal"):
            krippendorff_alpha(crowd)
    else:
        assert krippendorff_alpha(crowd) == pytest.approx(by_pairs(crowd), abs=1e-12)


def test_random_labels_have_no_agreement_and_the_interval_says_so():
    random = np.random.default_rng(0)
    task, annotator = np.divmod(np.arange(1200), 4)
    crowd = Annotations.from_arrays(task, annotator, random.integers(3, size=1200))
    low, high = alpha_interval(crowd, draws=200, interval=0.99)
    assert low < 0 < high
    assert low < krippendorff_alpha(crowd) < high
    # Pairs within a task are 1800, almost independent; alpha's spread is about sqrt(2 / 1800) / 2.
    assert high - low < 0.15
    assert alpha_interval(crowd, draws=20, seed=3) == alpha_interval(crowd, draws=20, seed=3)


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (([0, 1], [0, 0], [0, 1]), {}, "at least two labels, got none"),
        (([0, 0, 1], [0, 1, 0], [1, 1, 0]), {}, "are equal; alpha is undefined"),
        (([0, 0], [0, 1], ["x", "y"]), {"level": "interval"}, "classes that are numbers"),
        (([0, 0], [0, 1], [0, 1]), {"level": "best"}, "level: expected one of nominal"),
        (([0, 0], [0, 1], ["1", "nan"]), {"level": "interval"}, "classes that are finite numbers"),
        (([0, 0], [0, 1], [1, np.inf]), {"level": "ratio"}, "classes that are finite numbers of"),
        (([0, 0], [0, 1], ["1", "-1"]), {"level": "ratio"}, "finite numbers of at least 0"),
    ],
)
def test_bad_input_is_named(columns, options, message):
    with pytest.raises(DataError, match=message):
        krippendorff_alpha(Annotations.from_arrays(*columns), **options)


@pytest.mark.parametrize("options", [{"draws": 1}, {"interval": 0}, {"seed": -1}, {"draws": 2.5}])
def test_bad_options_of_the_interval_are_named(options):
    with pytest.raises(DataError, match=next(iter(options))):
        alpha_interval(published(), **options)


def test_designs_and_other_things_have_no_alpha():
    design = Annotations.from_arrays([0, 0], [0, 1], None, classes=[0, 1])
    for bad in (design, [[0, 1]]):
        with pytest.raises(DataError, match="annotations: expected Annotations with labels"):
            krippendorff_alpha(bad)
