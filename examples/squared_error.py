"""Squared error is a Gaussian likelihood: the best line is the same.

Three points and a line through the origin, y = a x + noise. The mean squared error and the
log-likelihood of normal noise are one curve, turned upside down and stretched; so they have their
optimum at the same slope, whatever the noise. What the squared error cannot say is how large the
noise is; the likelihood can.
"""

import numpy as np
import torch
from _figures import COLOURS, canvas, output_folder, save

from likely.inference import MLE, Program
from likely.models import LinearRegression


def main():
    output = output_folder(__doc__)
    x = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    y = torch.tensor([2.1, 3.9, 6.2], dtype=torch.float64)
    model = LinearRegression(intercept=False)
    program = Program(model, x, y)

    def log_likelihood(slope, scale):
        values = {"coefficients": x.new_tensor([slope]), "scale": x.new_tensor(scale)}
        return float(program.log_likelihood(values))

    slopes, scales = np.linspace(1.7, 2.4, 141), (0.1, 0.2, 0.4)
    residuals = y.numpy()[:, None] - x.numpy() * slopes
    mse = np.square(residuals).mean(0)
    curves = {s: np.array([log_likelihood(a, s) for a in slopes]) for s in scales}
    fit = MLE().fit(model, x, y)
    best, scale = float(fit.params["coefficients"][0]), float(fit.params["scale"])
    least = float(np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)[0][0])
    lowest = float(np.square(y.numpy() - best * x.numpy()[:, 0]).mean())

    print(f"Least squares:      a = {least:.7f}")
    print(f"Maximum likelihood: a = {best:.7f}   (28.5 / 14 = {28.5 / 14:.7f})")
    print(f"Standard error of a: {float(fit.standard_errors()['coefficients'][0]):.4f}")
    print(f"\nScale of the noise by maximum likelihood: {scale:.6f}")
    print(f"Root of the lowest mean squared error:    {lowest**0.5:.6f}, the same number")
    print("\nLog-likelihood against -3/2 log(2 pi s^2) - 3 MSE(a) / (2 s^2), 141 slopes a:")
    for s, curve in curves.items():
        gap = np.abs(curve + 1.5 * np.log(2 * np.pi * s**2) + 1.5 * mse / s**2).max()
        print(f"  s = {s}: best slope {slopes[curve.argmax()]:.3f}, equal to 1e-10: {gap < 1e-10}")

    figure, (left, right) = canvas(sharex=True)
    left.plot(slopes, mse, color="black")
    left.plot(best, lowest, "o", color=COLOURS[1])
    left.set_ylabel("mean squared error (units of y, squared)")
    left.set_title("The squared error is least at a = 28.5/14 ...", loc="left", fontsize=10)
    for number, (s, curve) in enumerate(curves.items()):
        right.plot(slopes, curve, color=COLOURS[(0, 2, 3)[number]], label=f"scale {s}")
        right.plot(best, log_likelihood(best, s), "o", color=COLOURS[1])
    right.set_ylim(-10.0, 4.0)
    right.set_ylabel("log-likelihood (nats)")
    right.set_title("... where each Gaussian log-likelihood is greatest", loc="left", fontsize=10)
    right.legend(frameon=False, loc="upper center", ncols=3, columnspacing=1)
    for ax in (left, right):
        ax.axvline(best, ymax=0.86, color=COLOURS[1], lw=1, ls="--")
        ax.set_xlabel("slope a (units of y per unit of x)")
    save(figure, output, "squared_error")


if __name__ == "__main__":
    main()
