"""A click rate that becomes a target stops measuring appeal.

Ten items, five places, and visitors who look at the upper places more. An editor's favourites were
shown on top most of the time. A recommender ranks by what it learnt from the log, the ranking makes
the next log, and so on. The click rate by item is an honest maximum likelihood estimate of the
wrong thing: a top place makes clicks, clicks make a top place. A prior steadies items that were
seldom shown, and leaves the bias as it was. A program that says how clicks come about removes most
of it, because a fifth of the first log showed the items in random order.
"""

import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from _figures import COLOURS, canvas, output_folder, save

from likely.inference import MAP, MLE, BoundaryWarning

APPEAL = np.linspace(0.20, 0.38, 10)  # chance of a click by a visitor who looks
FAVOURITES = [0, 1]  # the editor's: in truth the two least appealing
LOOKS = np.array([1.0, 0.6, 0.35, 0.2, 0.12])  # chance that a visitor looks at a place
EDITORS = 0.8  # share of the first log with the favourites on top; the rest is in random order
VISITORS, ROUNDS, RUNS = 1000, 8, 10


def click_rates(shown, clicks, prior=(1.0, 1.0)):
    """Every item has a rate of clicks, wherever it stood; counts are [item, place]."""
    with pyro.plate("item", len(shown)):
        rate = pyro.sample("rate", dist.Beta(*map(torch.tensor, prior)))
        pyro.sample("clicks", dist.Binomial(shown.sum(1), rate), obs=clicks.sum(1))


def looks_and_appeal(shown, clicks, prior=(2.0, 8.0)):
    """A click takes a look, by place, and appeal, by item; the first place is always looked at."""
    with pyro.plate("lower_place", shown.shape[1] - 1):
        lower = pyro.sample("looks", dist.Beta(torch.tensor(2.0), torch.tensor(2.0)))
    looks = torch.cat([torch.ones_like(lower[..., :1]), lower], -1)
    with pyro.plate("item", len(shown), dim=-2):
        rate = pyro.sample("rate", dist.Beta(*map(torch.tensor, prior)))
        with pyro.plate("place", shown.shape[1], dim=-1):
            pyro.sample("clicks", dist.Binomial(shown, rate * looks), obs=clicks)


LEARNERS = {
    "click rate, MLE": lambda s, c: MLE().fit(click_rates, s, c),
    "click rate, MAP": lambda s, c: MAP().fit(click_rates, s, c, prior=(2.0, 8.0)),
    "looks and appeal, MAP": lambda s, c: MAP().fit(looks_and_appeal, s, c),
}


def visit(rng, order, visitors=VISITORS, share_random=0.0):
    """Log of one round: how often each item stood at each place, and was clicked there."""
    shuffled = rng.permuted(np.tile(np.arange(len(APPEAL)), (visitors, 1)), axis=1)
    is_random = rng.random((visitors, 1)) < share_random
    items = np.where(is_random, shuffled, order)[:, : len(LOOKS)]
    hits = rng.random(items.shape) < APPEAL[items] * LOOKS
    log = np.zeros((2, len(APPEAL), len(LOOKS)))
    np.add.at(log[0], (items, np.arange(len(LOOKS))), 1)
    np.add.at(log[1], (items, np.arange(len(LOOKS))), hits)
    return torch.as_tensor(log)


def learn(learner, log):
    """Learnt rate by item."""
    with warnings.catch_warnings():
        # An item without a click has its estimate on the boundary.
        warnings.simplefilter("ignore", BoundaryWarning)
        return learner(*log).params["rate"].flatten().numpy()


def retrain(learner, seed):
    """Learnt rates [round, item] and rankings, each round from the whole log so far."""
    rng = np.random.default_rng(seed)
    log = visit(rng, np.concatenate([FAVOURITES, rng.permutation(8) + 2]), share_random=1 - EDITORS)
    rates, orders = [], []
    for _ in range(ROUNDS):
        rates.append(learn(learner, log))
        orders.append(np.argsort(-rates[-1], kind="stable"))
        log = log + visit(rng, orders[-1])
    return np.array(rates), np.array(orders)


def main():
    output = output_folder(__doc__)
    best, truth = float(np.sort(APPEAL)[:4:-1] @ LOOKS), APPEAL[9] / APPEAL[0]
    few = visit(np.random.default_rng(0), np.arange(10), 60, 1 - EDITORS)
    print("A log of 60 visitors: learnt rates by item, the favourites first")
    for name in ("click rate, MLE", "click rate, MAP"):
        rates = " ".join(f"{rate:.2f}" for rate in learn(LEARNERS[name], few))
        print(f"  {name:22} {rates}")
    print("The prior Beta(2, 8) takes the zeros away, which were no knowledge but few visitors.\n")
    print(f"Logs of {VISITORS} visitors, {RUNS} runs. In truth the most appealing item has")
    print(f"{truth:.1f} times the appeal of the least; at best {best:.3f} clicks a visitor.\n")
    print("                         most / least, learnt    favourites in the    clicks a visitor")
    print(
        "                         first log   8th round   upper two places   first log   8th round"
    )
    figure, (left, right) = canvas()
    rounds = np.arange(1, ROUNDS + 1)
    for (name, learner), colour, style in zip(
        LEARNERS.items(), (COLOURS[1], COLOURS[5], COLOURS[0]), ("o-", "s--", "D-"), strict=True
    ):
        rates, orders = map(np.stack, zip(*(retrain(learner, s) for s in range(RUNS)), strict=True))
        spread = np.exp(np.log(rates.max(-1) / rates.min(-1)).mean(0))
        top = np.isin(orders[:, -1, :2], FAVOURITES).mean()
        value = (APPEAL[orders[..., :5]] @ LOOKS).mean(0)
        print(f"  {name:22} {spread[0]:8.1f} {spread[-1]:11.1f}", end="")
        print(f" {top:18.0%} {value[0]:13.3f} {value[-1]:11.3f}")
        left.plot(rounds, spread, style, color=colour, label=name)
        right.plot(rounds, value, style, color=colour, label=name)
    left.axhline(truth, color="black", ls=":", label=f"truth, {truth:.1f}")
    left.set_ylim(0.0, 10.5)
    left.set_ylabel("learnt appeal, most / least appealing item")
    left.set_title("Retrained on its own log, the click rate exaggerates", loc="left", fontsize=10)
    left.legend(frameon=False, loc="upper left", ncols=2, fontsize=8)
    right.axhline(best, color="black", ls=":", label=f"best possible, {best:.3f}")
    right.set_ylim(0.6, 0.87)
    right.set_ylabel("clicks a visitor of the learnt ranking")
    right.set_title("Modelling the looks finds a better ranking", loc="left", fontsize=10)
    right.legend(frameon=False, loc="upper left", ncols=2, fontsize=8)
    for ax in (left, right):
        ax.set_xlabel("round of learning from one's own log")
    save(figure, output, "goodhart")


if __name__ == "__main__":
    main()
