"""A program that the library does not ship, through every engine: a zero-inflated Poisson.

Some days the counter is broken and reports zero; on other days counts are Poisson. Nothing below
says how to fit that: engines read it off the program, and sum the hidden state of each day out.
"""

from pathlib import Path

import matplotlib as mpl
import pyro
import pyro.distributions as dist
import torch

from likely.inference import EM, MAP, MLE, NUTS, SVI, Laplace, compare, plot_compare


def broken_counter(counts):
    working = pyro.sample("working", dist.Dirichlet(torch.ones(2)))  # P(broken), P(working)
    rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
    with pyro.plate("day", len(counts)):
        state = pyro.sample("state", dist.Categorical(working))
        # Broken: a rate of (almost) zero. Indexing with the state is all that a latent needs.
        rates = torch.stack([torch.tensor(1e-9), rate])
        pyro.sample("count", dist.Poisson(rates[state]), obs=counts)


def main():
    torch.manual_seed(1)
    counts = torch.poisson(torch.full((200,), 3.0)) * (torch.rand(200) < 0.7)
    fits = {}
    for engine in (
        MLE(),
        MAP(),
        EM(),
        SVI(max_iter=1500),
        Laplace(),
        NUTS(draws=300, warmup=300, chains=2),
    ):
        fits[engine.name.upper()] = engine.fit(broken_counter, counts)
    print(compare(fits).xs("estimate", axis=1, level="statistic").round(3).to_string())
    print("\ntruth: 0.3 broken, 0.7 working, rate 3.0")
    zeros = torch.nonzero(counts == 0)[0].item()
    belief = fits["NUTS"].latent("state")[zeros]
    print(f"day {zeros} counted 0: broken with probability {float(belief[0]):.2f}")
    mpl.use("Agg")
    output = Path(__file__).parent / "output"
    output.mkdir(exist_ok=True)
    figure = plot_compare(fits)
    figure.savefig(output / "declare_your_own.png", dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
