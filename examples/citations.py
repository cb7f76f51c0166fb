"""Four statistics journals, ranked by who cites whom: Stigler's table through four engines.

A citation of journal i by journal j counts as a win of i. Bradley and Terry's model needs four
numbers for the twelve counts that are not self-citations (Stigler 1994, Statistical Science 9).
Prints the maximum likelihood estimates with their standard errors, the test of fit, and how sure
the ranking is by the normal approximation, Laplace's and draws; writes the figure of both.
"""

import numpy as np
import torch
from _figures import canvas, output_folder, save
from scipy import stats

from likely.inference import EM, MLE, NUTS, Laplace, plot_intervals, plot_matrix
from likely.models import BradleyTerry, Comparisons
from likely.models.preference import ability_draws, deviance, ranking, win_matrix

JOURNALS = ["Biometrika", "Comm Statist", "JASA", "JRSS-B"]
# Citations of the row's journal by the column's.
CITED = np.array(
    [[714, 730, 498, 221], [33, 425, 68, 17], [320, 813, 1072, 142], [284, 276, 325, 188]]
)


def main():
    output = output_folder(__doc__)
    cited, citing = np.nonzero(~np.eye(4, dtype=bool))
    names = np.array(JOURNALS)
    data = Comparisons.from_arrays(names[cited], names[citing], CITED[cited, citing])
    program = BradleyTerry(4)
    fit = MLE().fit(program, data)
    base = data.items.tolist().index("Biometrika")
    ability = fit.params["ability"]
    drawn = ability_draws(fit, draws=100_000)
    errors = (drawn - drawn[:, [base]]).std(0)
    print("Log-odds of being cited, against Biometrika (standard error from 100,000 draws):")
    for name, value, error in zip(data.items, ability - ability[base], errors, strict=True):
        print(f"  {name:14}{value:9.5f}   ({error:.3f})")
    left, free = deviance(fit), len(data) - fit.n_parameters
    chance = stats.chi2.sf(left, free)
    print(f"Residual deviance {left:.4f} on {free} degrees of freedom, p = {chance:.2f}:")
    print("one number for each journal explains who cites whom.\n")

    zero = {"ability": torch.zeros(4)}
    slow = EM(init=zero, tol=1e-14).fit(program, data)
    print(
        f"EM from equal abilities: {slow.n_iter} steps, the same log-likelihood to "
        f"{abs(slow.log_likelihood - fit.log_likelihood):.0e}"
    )
    posteriors = {
        "Laplace": Laplace(draws=4000).fit(program, data),
        "NUTS": NUTS(draws=500, warmup=200, chains=2, cores=1).fit(program, data),
    }
    for name, posterior in posteriors.items():
        away = (posterior.params["ability"] - ability) / fit.standard_errors()["ability"]
        print(f"{name}: means within {float(away.abs().max()):.2f} standard errors of the MLE")
    table = ranking(posteriors["NUTS"])
    print(
        "\n"
        + table[["ability", "ability_sd", "rank_lower", "rank_upper", "best"]].round(3).to_string()
    )
    figure, (left_axes, right_axes) = canvas()
    plot_intervals(table, "ability", sort=False, axes=left_axes)
    left_axes.set_xlabel("log-odds")
    left_axes.set_title("Abilities and their 94 % intervals", loc="left", fontsize=10)
    plot_matrix(
        win_matrix(fit), title="p(the row is cited by the column, not the reverse)", axes=right_axes
    )
    save(figure, output, "citations")


if __name__ == "__main__":
    main()
