"""Fifty-nine language models, ranked by a crowd: ties, the side of the screen, and the judges.

In LLMFAO 124 people looked at two answers to a prompt, side by side, and said which was better, or
that neither was, as in two verdicts of five. Davidson's model of ties and Rao and Kupper's are laid
beside the habit of splitting ties in halves, which here gives the order of Davidson's model. A
home advantage tells whether the left answer is favoured, and a crowd's model which judges guess.
Writes the forest of abilities and the matrix of expected scores of the ten best.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _figures import canvas, output_folder, save

from likely.inference import MAP, MLE, criteria, plot_intervals, plot_matrix
from likely.models import BradleyTerry, Comparisons, CrowdBradleyTerry
from likely.models.preference import ranking, win_matrix

DATA = Path(os.environ.get("LIKELY_DATA", Path(__file__).resolve().parent / "data"))


def read(table, *, crowd=False):
    """Verdicts as comparisons, the left answer at home."""
    wins, losses, ties = (table["winner"] == what for what in ("left", "right", "tie"))
    judge = table["worker"] if crowd else None
    return Comparisons.from_arrays(
        table["left"], table["right"], wins, losses, ties, home=1, annotator=judge
    )


def main():
    output = output_folder(__doc__)
    path = DATA / "pairs" / "llmfao" / "llmfao.csv"
    if not path.exists():
        raise SystemExit("LIKELY_DATA must name the folder that holds pairs/llmfao/llmfao.csv")
    table = pd.read_csv(path)
    data = read(table)
    print(
        f"{data!r}, {table['worker'].nunique()} judges, "
        f"{(table['winner'] == 'tie').mean():.0%} ties\n"
    )
    n = data.n_items
    fits = {
        "Davidson": MLE().fit(BradleyTerry(n, ties="davidson"), data),
        "Rao-Kupper": MLE().fit(BradleyTerry(n, ties="rao-kupper"), data),
        "Davidson, left side": MLE().fit(
            BradleyTerry(n, ties="davidson", home_advantage=True), data
        ),
    }
    print(criteria(fits).round(1).to_string())
    side = fits["Davidson, left side"]
    home, error = (float(x["home_advantage"]) for x in (side.params, side.standard_errors()))
    print(f"\nThe left answer's advantage in log-odds: {home:.3f} ± {error:.3f}")

    halves = ranking(MLE().fit(BradleyTerry(n, ties="half"), data))
    table_ = ranking(fits["Davidson"])
    print("\nThe first eight by Davidson's model, and their ranks if ties are split:")
    shown = table_.head(8).assign(split=halves["rank"])
    columns = ["ability", "ability_sd", "rank_lower", "rank_upper", "best", "split"]
    print(shown[columns].round(3).to_string())
    moved = (table_["rank"] - halves["rank"].reindex(table_.index)).abs()
    width = (table_["rank_upper"] - table_["rank_lower"]).median()
    print(
        f"Splitting ties moves a model by {moved.max()} ranks at most; the median interval of a "
        f"rank is {width:.0f} wide."
    )

    judged = read(table, crowd=True)
    program = CrowdBradleyTerry(n, ties="davidson", fault="guess")
    crowd = MAP().fit(program, judged)
    reliability = pd.Series(crowd.params["reliability"].numpy(), judged.annotators)
    number = pd.Series(
        np.bincount(judged.annotator.numpy(), judged.total.numpy(), judged.n_annotators),
        judged.annotators,
    )
    many = reliability[number >= 30].sort_values()
    print(
        f"\nJudges with thirty verdicts or more ({len(many)}): the share of their verdicts that "
        "are no guesses"
    )
    print(
        f"  from {many.iloc[0]:.2f} (judge {many.index[0]}) to {many.iloc[-1]:.2f} "
        f"(judge {many.index[-1]}), median {many.median():.2f}"
    )
    both = torch.stack([fits["Davidson"].params["ability"], crowd.params["ability"]])
    print(f"  correlation of abilities with and without judges: {torch.corrcoef(both)[0, 1]:.3f}")

    figure, (left, right) = canvas(width=12.0, height=9.0)
    plot_intervals(table_.head(40), ["ability"], sort=False, axes=left)
    left.set_xlabel("log-odds")
    left.set_title("Abilities with 94 % intervals: the first 40", loc="left", fontsize=10)
    best = table_.index[:10]
    matrix = win_matrix(fits["Davidson"], outcome="score").loc[best, best]
    plot_matrix(matrix, title="Expected score of the row against the column", axes=right)
    save(figure, output, "rank_language_models")


if __name__ == "__main__":
    main()
