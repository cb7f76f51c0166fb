import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from likely.inference import EM, Fit, FitError, ProgramError, plot_intervals, plot_latent
from likely.inference.diagnostics import latent_array
from likely.models.crowd import Annotations, DawidSkene

TABLE = pd.DataFrame(
    {
        "labels": [3, 1, 2],
        "accuracy": [0.9, 0.5, 0.7],
        "accuracy_lower": [0.8, 0.3, 0.6],
        "accuracy_upper": [0.95, 0.75, 0.8],
        "name": ["x", "y", "z"],
    },
    index=pd.Index(["ann", "bo", "cy"], name="annotator"),
)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def fit():
    random = np.random.default_rng(0)
    task, annotator = np.divmod(np.arange(120), 4)
    label = (task % 3 + (random.uniform(size=120) > 0.6)) % 3
    names = np.array([f"t{i}" for i in range(30)])
    crowd = Annotations.from_arrays(names[task], annotator, np.array(["a", "b", "c"])[label])
    return EM(objective="posterior").fit(DawidSkene(3), crowd)


def names_of(ax):
    return [tick.get_text() for tick in ax.get_yticklabels()]


def test_a_forest_of_rows_from_the_lowest():
    figure = plot_intervals(TABLE)
    (ax,) = figure.axes
    assert names_of(ax) == ["bo", "cy", "ann"]
    assert ax.lines[0].get_xdata().tolist() == [0.5, 0.7, 0.9]
    segments = [segment[:, 0].tolist() for segment in ax.collections[0].get_segments()]
    assert segments == [[0.3, 0.75], [0.6, 0.8], [0.8, 0.95]]
    assert (ax.get_title(loc="left"), ax.get_ylabel()) == ("accuracy", "annotator")


def test_several_columns_some_rows_and_own_axes():
    _, axes = plt.subplots(1, 2)
    plot_intervals(TABLE, ["labels", "accuracy"], most=2, axes=axes)
    assert [names_of(ax) for ax in axes] == [["bo", "cy"], ["bo", "cy"]]
    assert axes[0].get_xlabel() == "the lowest 2 of 3"
    assert not axes[0].collections
    figure = plot_intervals(TABLE, "accuracy", sort=False)
    assert names_of(figure.axes[0]) == ["ann", "bo", "cy"]
    assert plot_intervals(TABLE[["labels"]]).axes[0].get_title(loc="left") == "labels"


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ([1], {}, "table must be a data frame"),
        (TABLE.head(0), {}, "at least one row"),
        (TABLE, {"columns": "quality"}, "columns names"),
        (TABLE, {"columns": []}, "columns names nothing"),
        (TABLE, {"columns": "name"}, "column 'name' holds"),
        (TABLE, {"most": 0}, "most must be"),
        (TABLE, {"axes": [None, None]}, "axes must be"),
    ],
)
def test_bad_tables_are_named(table, options, message):
    with pytest.raises(FitError, match=message):
        plot_intervals(table, **options)


def test_latents_carry_the_users_ids(fit, tmp_path):
    array = latent_array(fit, "truth")
    assert array.dims == ("task", "class")
    assert array.indexes["class"].tolist() == ["a", "b", "c"]
    assert (
        array.sel(task="t7").to_numpy().tolist()
        == array.to_numpy()[fit.program.args[0].tasks.tolist().index("t7")].tolist()
    )
    np.testing.assert_array_equal(array, fit.latent("truth"))
    fit.save(tmp_path / "fit.nc")
    loaded = latent_array(Fit.load(tmp_path / "fit.nc"), "truth")
    assert loaded.dims == array.dims
    np.testing.assert_array_equal(loaded, array)


def test_the_least_certain_entries_are_shown_with_their_probabilities(fit):
    table = fit.latent("truth").numpy()
    figure = plot_latent(fit, "truth", most=5)
    left, right = figure.axes
    assert sum(bar.get_height() for bar in left.patches) == 30
    order = np.argsort(table.max(1), kind="stable")[:5]
    tasks = fit.program.args[0].tasks
    assert names_of(right) == tasks[order].tolist()
    widths = np.array([bar.get_width() for bar in right.patches]).reshape(3, 5)
    np.testing.assert_allclose(widths.T, table[order], atol=1e-12)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "c"]
    _, axes = plt.subplots(1, 2)
    plot_latent(fit, "truth", axes=axes)
    assert axes[1].get_legend() is not None


@pytest.mark.parametrize("most", [0, 1000, True, 2.5])
def test_bad_numbers_of_entries_are_named(fit, most):
    with pytest.raises(FitError, match="most must be"):
        plot_latent(fit, "truth", most=most)


def test_other_sites_are_no_latents(fit):
    with pytest.raises(ProgramError, match="confusion"):
        plot_latent(fit, "confusion")
