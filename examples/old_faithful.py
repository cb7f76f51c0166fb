"""Old Faithful: how many kinds of eruptions are there?

272 eruptions of a geyser, each with its length and the wait for the next one (examples/data). A
mixture of two normal components is fitted by EM, held against scikit-learn's optimum, and laid
beside draws by NUTS; then one to four components are compared by BIC and by leave-one-out.
"""

import argparse
import warnings
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import sklearn.mixture

from likely.inference import (
    EM,
    NUTS,
    ConvergenceWarning,
    Laplace,
    ParameterPath,
    animate_em,
    compare,
    criteria,
    plot_compare,
    plot_criteria,
    plot_em_path,
    plot_em_steps,
    plot_mixture,
    plot_responsibilities,
)
from likely.models import GaussianMixture

HERE = Path(__file__).resolve().parent
UNITS = {"eruptions": "eruption (minutes)", "waiting": "wait for the next (minutes)"}

# Long eruptions with short waits, and the other way round: no such kinds exist.
FAR_AWAY = {
    "weights": [0.5, 0.5],
    "locs": [[2.0, 85.0], [4.5, 50.0]],
    "scales": [[1.0, 14.0], [1.0, 14.0]],
    "correlation_cholesky": [[[1.0, 0.0], [0.0, 1.0]]] * 2,
}


def mixture(n_components):
    """The program, with priors that know what minutes these are."""
    return GaussianMixture(
        n_components,
        weight_concentration=2.0,
        loc_mean=(3.5, 70.0),
        loc_scale=(1.5, 20.0),
        scale_median=(0.5, 8.0),
        scale_log_sd=0.5,
    )


def with_units(figure):
    """Name the axes by what they measure."""
    for ax in figure.axes:
        ax.set_xlabel(UNITS.get(ax.get_xlabel(), ax.get_xlabel()))
        ax.set_ylabel(UNITS.get(ax.get_ylabel(), ax.get_ylabel()))
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=HERE / "output")
    parser.add_argument("--draws", type=int, default=400, help="NUTS draws (and warm-up) a chain")
    parser.add_argument("--most", type=int, default=4, help="largest number of components")
    options = parser.parse_args()
    output = options.output
    output.mkdir(parents=True, exist_ok=True)
    mpl.use("Agg")

    geyser = pd.read_csv(HERE / "data" / "faithful.csv")
    n = len(geyser)

    em = EM(restarts=5, tol=1e-13).fit(mixture(2), geyser)
    peer = sklearn.mixture.GaussianMixture(2, n_init=10, tol=1e-10, reg_covar=0, random_state=0)
    theirs = peer.fit(geyser.to_numpy()).score(geyser.to_numpy())
    ours = em.log_likelihood / n
    print(f"Mean log-likelihood of two components: EM {ours:.6f}, scikit-learn {theirs:.6f} nats")
    print(f"They agree to 1e-6: {abs(ours - theirs) < 1e-6}\n")

    with warnings.catch_warnings():
        # Few draws are said to be few; --draws takes more.
        warnings.simplefilter("ignore", ConvergenceWarning)
        nuts = NUTS(draws=options.draws, warmup=options.draws, chains=2, init=em).fit(
            mixture(2), geyser
        )
    nuts = nuts.relabelled(em)
    print(f"NUTS: R-hat at most {nuts.diagnostics['rhat_max']:.3f}\n")
    table = compare({"EM": em, "NUTS": nuts}, sites=["weights", "locs", "scales"])
    print(table.round(3).to_string())

    path = ParameterPath()
    slow = EM(init=FAR_AWAY, callback=path).fit(mixture(2), geyser)
    print(f"\nFrom a bad start EM takes {slow.n_iter} iterations to the same place: ", end="")
    print(f"{slow.log_likelihood:.4f} and {em.log_likelihood:.4f} nats")

    models = {}
    for count in range(1, options.most + 1):
        point = EM(restarts=5).fit(mixture(count), geyser)
        models[count] = [point, Laplace(draws=1000, init=point).fit(mixture(count), geyser)]
    chosen = criteria(models).rename_axis("components")
    print("\nHow many components? BIC at EM's optimum; leave-one-out from Laplace draws\n")
    print(chosen.round(2).to_string())
    print(
        f"\nBIC says {chosen['bic'].idxmin()}, leave-one-out {chosen['elpd_loo'].idxmax()}", end=""
    )
    print("; the simplest model within two standard errors of the best is ", end="")
    print(chosen.index[chosen["elpd_diff"] <= 2 * chosen["dse"]][0])

    figures = {
        "faithful_em": with_units(plot_mixture(em)),
        "faithful_nuts": with_units(plot_mixture(nuts)),
        "faithful_responsibilities": plot_responsibilities(em),
        "faithful_steps": with_units(plot_em_steps(path, slow)),
        "faithful_path": plot_em_path(path, slow, sites=["weights", "locs", "covariances"]),
        "faithful_compare": plot_compare({"EM": em, "NUTS": nuts}, sites=["weights", "scales"]),
        "faithful_criteria": plot_criteria(chosen, name="number of components"),
    }
    for name, figure in figures.items():
        figure.savefig(output / f"{name}.png", dpi=150)
        plt.close(figure)
    film = animate_em(path, slow, output / "faithful.gif", dpi=80)
    print(f"\nFigures: {', '.join(f'{name}.png' for name in figures)}, {film.name}")


if __name__ == "__main__":
    main()
