"""One outlier, three likelihoods: how far does a single wrong point pull a line?

Thirteen points on a line, one of them moved. A normal likelihood pays for a distance with its
square and gives way without limit; a Laplace likelihood pays in proportion, so that a point pulls
only so hard; under Student's t a point that is far away is simply an outlier, and lets go.
"""

import warnings

import numpy as np
import torch
from _figures import COLOURS, canvas, output_folder, save

from likely.inference import MLE, ConvergenceWarning
from likely.models import GaussianModel, LaplaceModel, LinearRegression

NOISES = {
    "normal": (COLOURS[1], "-"),
    "laplace": (COLOURS[2], "--"),
    "student": (COLOURS[0], "-."),
}
SHIFTS = tuple(np.linspace(0.0, 10.0, 11))


def points(shift):
    """Thirteen points around y = 1 + 2 x, the last of them moved up."""
    rng = np.random.default_rng(4)
    x = np.linspace(0.0, 3.0, 13)
    y = 1.0 + 2.0 * x + rng.normal(0.0, 0.3, 13)
    y[-1] += shift
    return torch.as_tensor(x[:, None]), torch.as_tensor(y)


def fitted(noise, shift):
    """Maximum likelihood line under that noise, four degrees of freedom for Student's t."""
    program, data = LinearRegression(noise=noise), points(shift)
    # The best line under Laplace noise passes through data points, kinks where no slope vanishes:
    # a line search stalls on the way, steps that shrink to nothing (as for mini-batches) arrive.
    small_steps = {"optimizer": "adam", "batch_size": len(data[1]), "max_iter": 500}
    return at_kink(MLE(**small_steps if noise == "laplace" else {}), program, *data)


def at_kink(engine, program, *data):
    """A fit whose engine may warn that its gradient does not vanish, which at a kink it cannot."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return engine.fit(program, *data)


def main():
    output = output_folder(__doc__)
    heights = torch.tensor([9.8, 10.1, 10.0, 10.2, 9.9, 10.1, 18.0], dtype=torch.float64)
    mean = float(MLE().fit(GaussianModel(), heights).params["loc"])
    median = float(at_kink(MLE(), LaplaceModel(), heights).params["loc"])
    print("Seven measurements, 9.8 to 10.2 m, and the last says 18.0 m:")
    print(f"  normal likelihood:  {mean:.4f} m (the mean)")
    print(f"  Laplace likelihood: {median:.4f} m (the median)")

    fits = {noise: [fitted(noise, shift) for shift in SHIFTS] for noise in NOISES}
    slopes = {n: [float(f.params["coefficients"][0]) for f in row] for n, row in fits.items()}
    print("\nSlope of the line (2 in truth) when the last of 13 points is moved up\n")
    print("  moved by    0.0     2.0     5.0    10.0   AIC at 10.0")
    for noise, row in slopes.items():
        cells = " ".join(f"{row[SHIFTS.index(s)]:7.3f}" for s in (0.0, 2.0, 5.0, 10.0))
        print(f"  {noise:8}{cells} {fits[noise][-1].aic():10.1f}")
    print(
        "\nThe lower AIC says it, too: with the outlier there, Student's t describes the data best."
    )

    figure, (left, right) = canvas()
    x, y = points(SHIFTS[-1])
    left.plot(x[:-1], y[:-1], "o", color="black", ms=4)
    left.plot(x[-1], y[-1], "X", color="black", ms=9)
    left.annotate("moved up by 10", (3.0, float(y[-1])), xytext=(1.55, float(y[-1]) - 0.3))
    ends = np.array([0.0, 3.0])
    for noise, (colour, style) in NOISES.items():
        fit = fits[noise][-1]
        line = float(fit.params["intercept"]) + float(fit.params["coefficients"][0]) * ends
        left.plot(ends, line, style, color=colour, label=noise)
        right.plot(SHIFTS, slopes[noise], style, color=colour, label=noise)
    left.set_xlabel("x")
    left.set_ylabel("y")
    left.set_title("The normal line leaves twelve points for one", loc="left", fontsize=10)
    left.legend(frameon=False, loc="upper left", title="noise", alignment="left")
    right.axhline(2.0, color="grey", lw=1, ls=":")
    right.annotate("truth", (9.0, 1.92), color="grey", va="top")
    right.set_ylim(1.7, 3.6)
    right.set_xlabel("how far the last point is moved (units of y)")
    right.set_ylabel("slope by maximum likelihood")
    right.set_title("Only the normal likelihood gives way without limit", loc="left", fontsize=10)
    save(figure, output, "outlier")


if __name__ == "__main__":
    main()
