import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from likely.inference import EM, Fit, NonFiniteError
from likely.inference.cli import crowd_command as command
from likely.inference.cli import main
from likely.models.crowd import Annotations, DawidSkene, truth_table

CLASSES = np.array(["cat", "dog"])


def simulated(n_tasks=60, right=(0.95, 0.9, 0.85, 0.5), seed=0):
    """A table of labels with text ids, and the true classes."""
    random = np.random.default_rng(seed)
    truth = random.integers(2, size=n_tasks)
    task, annotator = np.divmod(np.arange(n_tasks * len(right)), len(right))
    wrong = random.uniform(size=len(task)) > np.array(right)[annotator]
    names = np.array([f"t{i:03}" for i in range(n_tasks)])
    frame = pd.DataFrame(
        {
            "task": names[task],
            "annotator": np.array(["ann", "bo", "cy", "spam"])[annotator],
            "label": CLASSES[truth[task] ^ wrong],
        }
    )
    return frame, pd.DataFrame({"task": names, "label": CLASSES[truth]})


FRAME, GOLD = simulated()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    FRAME.to_csv("labels.csv", index=False)
    GOLD.to_csv("gold.csv", index=False)
    return tmp_path


def likely(*arguments):
    return CliRunner().invoke(main, ["crowd", *map(str, arguments)])


def done(*arguments):
    result = likely(*arguments)
    assert result.exit_code == 0, result.output
    return result


def test_the_usual_job_writes_truth_annotators_fit_and_figures(folder):
    result = done("labels.csv", "--model", "dawid-skene", "--engine", "em", "--out", "a/b")
    out = folder / "a" / "b"
    crowd = Annotations.from_frame(FRAME)
    fit = EM().fit(DawidSkene(2), crowd)
    expected = truth_table(crowd, fit.latent("truth"))
    truth = pd.read_csv(out / "truth.csv", index_col="task")
    assert list(truth) == ["truth", "probability", "labels", "p_cat", "p_dog"]
    pd.testing.assert_frame_equal(truth, expected, check_dtype=False, rtol=1e-5)
    annotators = pd.read_csv(out / "annotators.csv", index_col="annotator")
    assert annotators.index.tolist() == ["ann", "bo", "cy", "spam"]
    assert annotators["accuracy"].idxmin() == annotators["spammer_score"].idxmin() == "spam"
    assert not [name for name in annotators if name.endswith("_lower")]
    loaded = Fit.load(out / "fit.nc")
    for name, value in fit.params.items():
        torch.testing.assert_close(loaded.params[name], value)
    for name in ("annotators.png", "truth.png", "confusion.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert "240 labels, 60 tasks, 4 annotators, 2 classes" in result.stdout
    assert re.search(r"dawid-skene by em: converged after \d+ iterations", result.stdout)
    assert f"{fit.log_likelihood:.4f}" in result.stdout
    assert result.stderr == ""


def test_engines_with_draws_give_intervals_and_the_chance_of_a_spammer(folder):
    done("labels.csv", "--engine", "laplace", "-O", "draws=200", "--threshold", 0.1, "--out", "o")
    table = pd.read_csv("o/annotators.csv", index_col="annotator")
    for name in ("accuracy", "spammer_score"):
        assert (table[f"{name}_lower"] < table[name]).all()
        assert (table[name] < table[f"{name}_upper"]).all()
    assert table["p_below"]["spam"] > 0.5 > table["p_below"]["ann"]


@pytest.mark.parametrize("model", list(command.MODELS))
def test_every_model_by_its_name(folder, model):
    options = ["-O", "objective=posterior", "-O", "max_iter=200"]
    done("labels.csv", "--model", model, "--out", "o", "--next", 3, *options)
    right = (pd.read_csv("o/truth.csv")["truth"] == GOLD["label"]).mean()
    assert right > 0.85
    asked = pd.read_csv("o/next.csv")
    assert (asked.iloc[:, -1].diff().dropna() <= 0).all()
    annotators = pd.read_csv("o/annotators.csv", index_col="annotator")
    assert annotators.iloc[:, 1].idxmin() == "spam" or model == "pooled"
    assert (annotators.iloc[:, 1].nunique() == 1) == (model == "pooled")
    assert set(asked["task"]) <= set(GOLD["task"])


def test_parquet_gives_the_same_answer(folder):
    FRAME.rename(columns={"task": "i", "annotator": "who", "label": "what"}).to_parquet("x.parquet")
    columns = ["--task", "i", "--annotator", "who", "--label", "what"]
    done("x.parquet", *columns, "--out", "p", "--no-figures")
    done("labels.csv", "--out", "c", "--no-figures")
    for name in ("truth.csv", "annotators.csv"):
        assert (folder / "p" / name).read_text() == (folder / "c" / name).read_text()
    assert not list(folder.rglob("*.png"))


def test_gold_for_the_fit_or_for_the_score(folder):
    scored = done("labels.csv", "--gold", "gold.csv", "--gold-use", "score", "--out", "s")
    right = (pd.read_csv("s/truth.csv")["truth"] == GOLD["label"]).mean()
    assert f"accuracy on 60 gold tasks: {right:.4f}" in scored.stdout
    some = pd.concat([GOLD.head(10), pd.DataFrame({"task": ["nobody"], "label": ["cat"]})])
    some.rename(columns={"label": "true"}).to_csv("some.csv", index=False)
    fitted = done("labels.csv", "--gold", "some.csv", "--gold-label", "true", "--out", "f")
    assert "60 tasks, 10 with a known class" in fitted.stdout
    assert "1 tasks without labels" in fitted.stderr
    table = pd.read_csv("f/truth.csv").head(10)
    assert (table["probability"] == 1).all()
    assert table["truth"].tolist() == GOLD["label"].tolist()[:10]
    FRAME.merge(GOLD.head(10).rename(columns={"label": "true"}), how="left").to_csv("column.csv")
    done("column.csv", "--gold", "true", "--out", "g")
    assert (folder / "g" / "truth.csv").read_text() == (folder / "f" / "truth.csv").read_text()


def test_costs_classes_and_options(folder):
    names = ["dog", "cat", "ape"]
    pd.DataFrame([[0, 1, 1], [5, 0, 1], [1, 1, 0]], names, names).to_csv("cost.csv")
    done(
        "labels.csv", "--classes", "dog,cat,ape", "--cost", "cost.csv", "--out", "o",
        "-O", "objective=posterior", "-O", "tol=1e-6",
    )  # fmt: skip
    table = pd.read_csv("o/annotators.csv", index_col="annotator")
    assert (table["decision_cost"] <= table["cost"]).all()
    assert table["cost"].idxmax() == "spam"
    assert list(pd.read_csv("o/truth.csv"))[-3:] == ["p_dog", "p_cat", "p_ape"]
    assert Fit.load("o/fit.nc").options["objective"] == "posterior"


def test_a_run_starts_from_an_earlier_one(folder):
    more = simulated(64)[0].tail(16)
    pd.concat([FRAME, more.replace("bo", "dee")]).to_csv("more.csv", index=False)
    options = ["-O", "objective=posterior", "--no-figures"]
    done("labels.csv", *options, "--out", "first")
    cold = done("more.csv", *options, "--out", "cold").stdout
    warm = done("more.csv", *options, "--out", "warm", "--start", "first/fit.nc").stdout
    cold_n, warm_n = (int(re.search(r"after (\d+) iter", text)[1]) for text in (cold, warm))
    assert warm_n < cold_n


def test_the_progress_bar_and_warnings_go_to_standard_error(folder):
    shown = done("labels.csv", "--progress", "--out", "o", "--no-figures")
    assert "em:" in shown.stderr
    assert "it/s" in shown.stderr
    stopped = done("labels.csv", "-O", "max_iter=1", "--out", "o", "--no-figures")
    assert "NOT converged after 1 iterations" in stopped.stdout
    assert stopped.stderr.startswith("Warning: ")
    assert stopped.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (None, [], "there is no file 'bad.csv'"),
        ("", [], "cannot read 'bad.csv' as a table"),
        ("task,annotator,label\n", [], "expected at least one row"),
        ("task,worker,label\n1,2,3\n", [], "has no column ['annotator']; its columns are ['task'"),
        ("task,annotator,label\n1,,3\n", [], "annotator: 1 missing value"),
        ("task,annotator,label\n1,2,3\n1,2,3,4\n", [], "cannot read 'bad.csv' as a table"),
        ("task,annotator,label\n1,2,3\n", [], "n_classes: expected an integer of at least 2"),
        ("task;annotator;label\n1;2;3\n", [], "seems to have ';' between fields"),
        ("good", ["--task", "label"], "expected three columns, got 'label', 'annotator', 'label'"),
        ("good", ["--gold", "nowhere.csv"], "'nowhere.csv' is neither a column of 'bad.csv' nor"),
        ("good", ["--gold", "nothing.csv"], "gold: 'nothing.csv' gives no task a class"),
        ("good", ["--gold-use", "score"], "gold-use: score needs true classes"),
        ("good", ["--gold-label", "x"], "gold-label: names a column of a gold file"),
        ("good", ["--gold", "label", "--gold-label", "x"], "gold-label: names a column of a"),
        ("good", ["--classes", "cat,,dog"], "classes: expected names with commas"),
        ("good", ["--gold", "bad.csv", "--gold-label", "x"], "has no column ['x']"),
        ("good", ["--gold", "bad.csv"], "gives task 't000' several classes"),
        ("good", ["--gold", "other.csv"], "gold: none of its tasks has labels"),
        ("good", ["--gold", "class.csv"], "gold: class 'emu' is not among the classes"),
        ("good", ["--classes", "cat,emu"], "label: 1 value(s) not in classes: 'dog'"),
        ("good", ["-O", "fast"], "option: expected name=value"),
        ("good", ["-O", "fast=1"], "engine 'em' has no option 'fast'"),
        ("good", ["-O", "seed=1"], "option: give seed as --seed"),
        ("good", ["-O", "init=x.nc"], "option: give init as --start"),
        ("good", ["-O", "tol=1", "-O", "tol=2"], "option: tol is given twice"),
        ("good", ["-O", "dtype=float8"], "dtype must be a floating torch.dtype, got 'float8'"),
        ("good", ["-O", "device=xla"], "device 'xla' is not available"),
        ("good", ["-O", "tol=-1"], "tol must be"),
        ("good", ["--seed", "-1"], "seed must be"),
        ("good", ["--start", "nowhere.nc"], "start: "),
        ("good", ["--start", "bad.csv"], "start: "),
        ("good", ["--cost", "nowhere.csv"], "cost: cannot read"),
        ("good", ["--cost", "bad.csv"], "cost: expected rows and columns ['cat', 'dog']"),
        ("good", ["--cost", "nan.csv"], "cost: expected finite numbers"),
        ("good", ["--cost", "twice.csv"], "got rows ['cat', 'dog'] and columns ['cat', 'cat', "),
        ("good", ["--cost", "semicolon.csv"], "expected rows and columns ['cat', 'dog'], each"),
        ("good", ["--model", "glad", "--threshold", "0.1"], "threshold: needs confusion tables"),
        ("good", ["--model", "glad", "--cost", "nan.csv"], "cost: needs confusion tables"),
        ("good", ["--interval", "1.5"], "interval: expected a probability"),
        ("good", ["--threshold", "2"], "threshold: expected a score"),
        ("good", ["--out", "bad.csv"], "out: cannot make the folder 'bad.csv': File exists"),
        ("good", ["--out", "taken"], "out: cannot write 'taken/fit.nc', which is a folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(folder, text, options, message):
    pd.DataFrame({"task": ["a"], "label": ["cat"]}).to_csv("other.csv", index=False)
    pd.DataFrame({"task": ["t000"], "label": ["emu"]}).to_csv("class.csv", index=False)
    pd.DataFrame({"task": ["t000", "t001"], "label": ["-1", None]}).to_csv("nothing.csv")
    (folder / "nan.csv").write_text(",cat,dog\ncat,0,nan\ndog,1,0\n")
    (folder / "twice.csv").write_text(",cat,cat,dog\ncat,0,0,1\ndog,1,1,0\n")
    (folder / "semicolon.csv").write_text(";cat;dog\ncat;0;1\ndog;1;0\n")
    (folder / "taken" / "fit.nc").mkdir(parents=True)
    if text == "good":
        FRAME.to_csv("bad.csv", index=False)
    elif text is not None:
        (folder / "bad.csv").write_text(text)
    result = likely("bad.csv", *options)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert not list(folder.rglob("truth.csv"))


def test_a_fit_that_fails_has_exit_code_1(folder, monkeypatch):
    def fails(*args, **options):
        raise NonFiniteError("the objective became nan\nat iteration 3")

    monkeypatch.setattr(command, "fit", fails)
    result = likely("labels.csv")
    assert result.exit_code == 1
    assert result.stderr == "Error: the objective became nan at iteration 3\n"


def test_nothing_that_is_read_is_written_over(folder):
    GOLD.to_csv("truth.csv", index=False)
    before = (folder / "truth.csv").read_bytes()
    result = likely("labels.csv", "--gold", "truth.csv", "--out", ".")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "out: would write over 'truth.csv', which is read" in result.stderr
    assert (folder / "truth.csv").read_bytes() == before


def test_messages_hold_nothing_that_steers_a_terminal(folder):
    (folder / "bad.csv").write_bytes(b"task,annotator,label\n1,2,\x1b[31m\x07red,4\n")
    stderr = likely("bad.csv").stderr
    assert "red,4" in stderr
    assert stderr.removesuffix("\n").isprintable()


def test_gold_as_other_programs_write_it(folder):
    """Whole numbers with gaps are written as 1.0; -1 says that a class is unknown."""
    number = {"cat": 0, "dog": 1}
    table = FRAME.assign(label=FRAME["label"].map(number))
    known = GOLD.assign(label=GOLD["label"].map(number)).head(10)
    table.assign(right=table["task"].map(known.set_index("task")["label"])).to_csv("gaps.csv")
    assert "1.0" in (folder / "gaps.csv").read_text()
    done("gaps.csv", "--gold", "right", "--out", "gaps", "--no-figures")
    table.to_csv("numbers.csv")
    pd.concat([known, pd.DataFrame({"task": ["t040"], "label": [-1]})]).to_csv("minus.csv")
    shown = done("numbers.csv", "--gold", "minus.csv", "--out", "minus", "--no-figures")
    assert "60 tasks, 10 with a known class" in shown.stdout
    pd.testing.assert_frame_equal(*(pd.read_csv(f"{name}/truth.csv") for name in ("gaps", "minus")))
    assert (pd.read_csv("gaps/truth.csv")["probability"].head(10) == 1).all()


@pytest.mark.parametrize("kind", [int, float, bool])
def test_classes_of_a_parquet_file_have_its_type(folder, kind):
    labels = FRAME["label"].map({"cat": 0, "dog": 1}).astype(kind)
    FRAME.assign(label=labels).to_parquet("LABELS.PARQUET")
    names = ["--classes", ", ".join(str(kind(value)) for value in (1, 0))]
    done("LABELS.PARQUET", *names, "--out", "o", "--no-figures")
    classes = Fit.load("o/fit.nc").to_arviz().posterior["class"].to_numpy()
    assert classes.tolist() == [kind(1), kind(0)]
    if kind is not bool:
        result = likely("LABELS.PARQUET", "--classes", "no,yes", "--out", "o")
        assert result.exit_code == 2
        assert "classes: the labels are numbers" in result.stderr


def test_separators_quoted_classes_and_types_of_the_fit(folder):
    text = FRAME.replace("cat", "a, cat").to_csv(index=False, sep=";")
    (folder / "semicolons.csv").write_text(text)
    options = ["--separator", ";", "--classes", '"a, cat",dog', "-O", "dtype=float32"]
    done("semicolons.csv", *options, "--out", "o", "--no-figures")
    assert set(pd.read_csv("o/truth.csv")["truth"]) == {"a, cat", "dog"}
    assert Fit.load("o/fit.nc").options["dtype"] == "torch.float32"
    (folder / "tabs.txt").write_text(text.replace(";", "\t"))
    done("tabs.txt", "--separator", "tab", "--out", "tabs", "--no-figures")


def test_names_that_figures_could_choke_on(folder):
    names = {"ann": "$\\frac$", "bo": "作者", "cy": "cy\ncy", "spam": "x" * 500}
    frame = FRAME.replace(names).replace({"cat": "$", "dog": "$\\q$" + "dog " * 60})
    frame.to_csv("odd.csv", index=False)
    result = done("odd.csv", "--out", "o")
    assert (folder / "o" / "confusion.png").is_file()
    assert result.stderr == (
        "Warning: figures: the font lacks letters of some names; they show as boxes\n"
    )


def test_tables_of_many_classes_are_no_figure(folder):
    rows = [(f"t{i}", f"a{j}", f"c{(i + j) % 60:02}") for i in range(60) for j in range(3)]
    pd.DataFrame(rows, columns=["task", "annotator", "label"]).to_csv("many.csv", index=False)
    shown = done("many.csv", "--out", "o", "-O", "max_iter=3")
    assert "confusion.png" not in shown.stdout
    assert "truth.png" in shown.stdout


@pytest.mark.parametrize("options", [["--model", "best"], ["--engine", "x"], ["--next", "-1"], []])
def test_unknown_names_and_missing_arguments_have_exit_code_2(folder, options):
    arguments = ["labels.csv", *options] if options else []
    assert likely(*arguments).exit_code == 2


def test_help_says_what_every_option_does():
    text = likely("--help").output
    for parameter in command.crowd.params:
        for name in parameter.opts:
            assert name.upper() in text.upper()
        assert parameter.param_type_name == "argument" or parameter.help
    assert "Exit codes" in text
    assert "crowd" in CliRunner().invoke(main, ["--help"]).output
    assert CliRunner().invoke(main, ["--version"]).output.startswith("likely ")


def test_the_module_is_the_command():
    line = [sys.executable, "-P", "-m", "likely.inference", "crowd", "--help"]
    shown = subprocess.run(line, capture_output=True, text=True, timeout=120, check=True)
    assert shown.stdout.startswith("Usage: python -m likely.inference crowd")
