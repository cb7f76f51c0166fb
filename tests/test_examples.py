"""Every example runs, and writes figures that are not empty."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
EXAMPLES = sorted(p for p in (ROOT / "examples").glob("*.py") if not p.name.startswith("_"))
# What makes an example short enough for a test; the others run as they are.
SHORT = {
    "label_with_people.py": ["--simulate"],
    "anesthesia.py": ["--draws", "100", "--no-progress"],
    "old_faithful.py": ["--draws", "40", "--most", "2"],
    "vae.py": ["--epochs", "20", "--no-progress"],
}
SAYS = {
    "label_with_people.py": ["40 of 400 pictures", "0.978", "0 of 40 answers differ"],
    "citations.py": ["-2.94907", "-0.47957", "0.26895", "4.2934 on 3", "0.102", "0.061", "0.071"],
    "coin_likelihood.py": ["p = 0.75: 0.1055", "maximum: p = 0.750000", "0.2165", "0.0500"],
    "cross_entropy.py": [
        "cross_entropy:             1.019117",
        "by label:    1.019117",
        "[0.6, 0.3, 0.1]",
        "0.897946, the labels' entropy 0.897946",
        "below 1e-5: True",
    ],
    "fork.py": ["reverse KL, one mode         0.0%", "forward KL, two modes        0.0%"],
    "goodhart.py": ["0.13 0.00 0.00", "0.13 0.06 0.07", "0.815", "MLE             3.8         7.1"],
    "k_means.py": ["ours 968.7664, scikit-learn 968.7664", "0.968", "0.720"],
    "log_scale.py": [
        "metres:      NonFiniteError",
        "not there after 300 steps: 211.9, wanted 76.46",
        "converged after 30 steps: 0.07646",
        "converged after 30 steps: 7.646",
    ],
    "no_collisions.py": ["0.08333      0.25887", "0.00980      0.02951", "n / m = 0.0200"],
    "old_faithful.py": ["EM -4.155382, scikit-learn -4.155382", "1e-6: True", "BIC says 2"],
    "one_head.py": ["BoundaryWarning", "1.0000        -inf", "0.6667     -1.0986", "3/5: True"],
    "outlier.py": ["11.1571 m (the mean)", "10.1000 m (the median)", "3.370       65.5", "39.6"],
    "rank_language_models.py": [
        "8931 comparisons, 59 items",
        "0.160 ± 0.030",
        "GPT 4                        1.752",
        "moves a model by 0 ranks",
        "from 0.03 (judge 15) to 0.97 (judge 107)",
    ],
    "regimes.py": [
        "-629.80          7 1291.85",
        "The BIC takes 2 regimes: 1097 ± 134 falls to 851 ± 124",
        "1899: flow  774, already low with probability 0.947",
        "On the most probable path 1899 is the first",
        "2000, posterior :  905, 612 to 1271",
    ],
    "small_samples.py": ["10.0333333 m", "0.028889", "0.043333", "0.483 +- 0.039     0.500"],
    "squared_error.py": [
        "Maximum likelihood: a = 2.0357143",
        "0.118523, the same number",
        "s = 0.1: best slope 2.035, equal to 1e-10: True",
    ],
    "two_bells.py": ["-792.65", "-1.060, 2.539", "94 % interval", "two_bells.gif"],
    "underflow.py": ["150      1075", "106       752", "not zero: 0 of 81", "finite: 81 of 81"],
    "anesthesia.py": ["prevalence[1]", "-192.89", "The 38 cells that the MLE says never happen"],
    "crowd_classifier.py": [
        "every label                 0.740 0.747 0.774 0.809",
        "joint                       0.736 0.831 0.834 0.853",
        "ahead of the others at: [2, 3, 5] labels a task",
        "LabelMe",
    ],
    "cloning.py": [
        " 25000 steps:   500   500   500   500   500",
        "a fall is the end  0.00999, 0.0449, 0.189, 1.21, 4.79, 18.6, 106; grows like T^2.0",
        "0.497; grows like T^1.0",
        "better than the expert",
    ],
    "declare_your_own.py": ["rate", "broken with probability"],
    "irl_gridworld.py": ["were never passed", "of the walker's", "Laplace draws", "94 % interval"],
    "dpo_vs_rlhf.py": ["0.0083   0.0083   0.0012", "0.0866   0.0179   0.0038"],
    "rlhf_gridworld.py": ["0.112   0.382   0.995", "0.107   0.381   0.991"],
    "vae.py": ["ELBO per picture, after", "PCA, 2 numbers", "VAE, 2 numbers"],
}


@pytest.mark.slow
@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(script: Path, tmp_path: Path) -> None:
    copy = tmp_path / "examples"
    copy.mkdir()
    for source in (script, *script.parent.glob("_*.py")):
        (copy / source.name).write_text(source.read_text())
    (copy / "data").symlink_to(ROOT / "examples" / "data")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script.name, *SHORT.get(script.name, [])],
        cwd=copy,
        env={"LIKELY_DATA": str(DATA), **os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for expected in SAYS[script.name]:
        assert expected in done.stdout
    figures = list((copy / "output").glob("*.png"))
    assert figures
    for figure in figures:
        assert figure.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert figure.stat().st_size > 5_000
