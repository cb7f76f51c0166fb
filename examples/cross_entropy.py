"""Cross-entropy is a categorical likelihood: training a classifier is maximum likelihood.

torch's cross-entropy of logits and labels is minus the log-density that the program gives to the
same labels, observation by observation. Minimising the one and maximising the other therefore end
at the same weights; and the least cross-entropy is not zero but the entropy of the labels.
"""

import numpy as np
import torch
import torch.nn.functional as F
from _figures import COLOURS, canvas, output_folder, save

from likely.inference import MLE, Program
from likely.models import CategoricalModel, LogisticRegression


def trained_by_cross_entropy(x, y):
    """Weights of a logistic classifier that torch's loss and optimiser find."""
    weights = torch.zeros(x.shape[1] + 1, dtype=x.dtype, requires_grad=True)
    search = torch.optim.LBFGS(
        [weights], tolerance_grad=1e-10, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure():
        search.zero_grad()
        loss = F.binary_cross_entropy_with_logits(weights[0] + x @ weights[1:], y)
        loss.backward()
        return loss

    for _ in range(5):
        search.step(closure)
    return weights.detach()


def main():
    output = output_folder(__doc__)
    labels = torch.tensor([0] * 6 + [1] * 3 + [2] * 1)
    program = Program(CategoricalModel(3), labels)
    fit = MLE().fit(CategoricalModel(3), labels)
    probabilities = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    density = -float(program.log_likelihood({"probabilities": probabilities})) / len(labels)
    logits = probabilities.log().expand(len(labels), 3)
    print("Ten labels (six of class 0, three of 1, one of 2) under probabilities .5, .2, .3")
    print(f"  torch's cross_entropy:             {float(F.cross_entropy(logits, labels)):.6f}")
    print(f"  minus log-likelihood, by label:    {density:.6f}")
    shares = fit.params["probabilities"]
    entropy = -float((shares * shares.log()).sum())
    print(f"Maximum likelihood: {[round(float(p), 4) for p in shares]}, the shares themselves;")
    print(
        f"  cross-entropy there {-fit.log_likelihood / 10:.6f}, the labels' entropy {entropy:.6f}"
    )

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 3, generator=generator, dtype=torch.float64)
    chance = torch.sigmoid(0.5 + x @ torch.tensor([1.5, -1.0, 0.0], dtype=torch.float64))
    y = (torch.rand(400, generator=generator, dtype=torch.float64) < chance).double()
    trained = trained_by_cross_entropy(x, y)
    logistic = MLE().fit(LogisticRegression(), x, y)
    found = torch.cat([logistic.params["intercept"][None], logistic.params["coefficients"]])
    errors = logistic.standard_errors()
    errors = torch.cat([errors["intercept"][None], errors["coefficients"]])
    gap = float((found - trained).abs().max())
    print("\nA logistic classifier on 400 points: weights by cross-entropy and by likelihood")
    for name, a, b in zip(("intercept", "x1", "x2", "x3"), trained, found, strict=True):
        print(f"  {name:9} {float(a):9.6f} {float(b):9.6f}")
    print(f"  largest difference below 1e-5: {gap < 1e-5}")

    figure, (left, right) = canvas()
    grid = np.linspace(0.02, 0.98, 97)
    # The other two classes share the rest three to one, as the labels do.
    tables = [torch.tensor([p, (1 - p) * 0.75, (1 - p) * 0.25], dtype=torch.float64) for p in grid]
    curve = [-float(program.log_likelihood({"probabilities": t})) / 10 for t in tables]
    dots = [float(F.cross_entropy(t.log().expand(10, 3), labels)) for t in tables[::6]]
    left.plot(grid, curve, color=COLOURS[0], label="minus log-likelihood, by label")
    left.plot(grid[::6], dots, "o", mfc="none", color=COLOURS[1], label="torch's cross_entropy")
    left.axhline(entropy, color="grey", ls=":", lw=1.2, label="entropy of the labels")
    left.plot(0.6, entropy, "o", color=COLOURS[0])
    left.annotate("MLE 0.6", (0.6, entropy), xytext=(-14, 10), textcoords="offset points")
    left.set_xlabel("predicted probability of class 0")
    left.set_ylabel("nats by label")
    left.set_title("One curve; its least value is the labels' entropy", loc="left", fontsize=10)
    left.legend(frameon=False, loc="upper center")
    rows = np.arange(4)
    right.errorbar(found, rows, xerr=2 * errors, fmt="o", color=COLOURS[0], label="MLE ± 2 s.e.")
    right.plot(trained, rows, "x", ms=9, mew=2, color=COLOURS[1], label="cross-entropy training")
    right.plot([0.5, 1.5, -1.0, 0.0], rows, "|", ms=16, color="black", label="truth")
    right.set_yticks(rows, ["intercept", "x1", "x2", "x3"])
    right.set_ylim(3.6, -1.4)
    right.set_xlabel("weight (log-odds by unit of x)")
    right.set_title("Both routes train the same classifier", loc="left", fontsize=10)
    right.legend(
        frameon=False, loc="upper left", ncols=3, columnspacing=0.8, handletextpad=0.2, fontsize=8
    )
    save(figure, output, "cross_entropy")


if __name__ == "__main__":
    main()
