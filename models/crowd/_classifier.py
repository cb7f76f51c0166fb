"""Classifiers inside crowd programs: true classes that depend on the features of a task."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pyro
import torch
from pyro import poutine
from pyro.nn import PyroModule
from pyro.poutine.util import is_validation_enabled
from torch import Tensor

from likely.envs import DataError
from likely.models._data import as_matrix, check_finite
from likely.models._linear import coefficient_prior
from likely.models.crowd._newton import MOST, softmax_newton
from likely.models.crowd._program import CrowdProgram, Sites
from likely.models.crowd.annotations import Annotations
from likely.models.softmax import SoftmaxRegression

Params = Mapping[str, Tensor]

# What parameters of a module are called: this, three dollar signs, and their name in the module.
MODULE = "classifier"


class WithClassifier(CrowdProgram):
    """A crowd program whose true classes depend on features through ``classifier``."""

    classifier: SoftmaxRegression | torch.nn.Module | None
    dims: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **CrowdProgram.dims,
        "intercept": ("class",),
        "coefficients": ("class", "feature"),
    }

    def __call__(self, annotations: Annotations) -> Tensor:
        """Run the program; labels that ``annotations`` lack are simulated.

        Returns
        -------
        Tensor
            int64 [n_labels]: the labels, observed or simulated.

        Raises
        ------
        DataError
            If the annotations do not fit the program or have no features, or the module gives
            scores of another shape.
        """
        if isinstance(self.classifier, PyroModule):
            # Its weights are sites, which must not stand in the plate of the tasks.
            self._check(annotations)
            features = features_of(annotations)
            scores = self._scored(self.classifier, features)
            both = torch.cat([features, scores], -1)
            return super().__call__(_with_features(annotations, both))
        return super().__call__(annotations)

    def sample_classifier(self, annotations: Annotations) -> Sites:
        """Sample the classifier's sites, or register the module's parameters."""
        options = self.classifier
        if isinstance(options, SoftmaxRegression):
            return sample_softmax(options, features_of(annotations))
        if isinstance(options, torch.nn.Module) and not isinstance(options, PyroModule):
            pyro.module(MODULE, options)
        return {}

    def truth_prior(self, sites: Sites, batch: Annotations) -> Tensor:
        """Probabilities of the true classes, ``[*outside, n_tasks, K]``."""
        features = features_of(batch)
        if isinstance(self.classifier, SoftmaxRegression):
            # Plates outside that vectorise the program leave the tasks' dimension at one.
            outside = sites["coefficients"].dim() > 2
            squeezed = {"coefficients": sites["coefficients"].squeeze(-3)} if outside else {}
            return softmax_scores({**sites, **squeezed}, features).softmax(-1)
        if isinstance(self.classifier, PyroModule):
            return features[:, -self.n_classes :].softmax(-1)  # the scores, see `__call__`
        return self._scored(self.classifier, features).softmax(-1)

    def m_step(
        self,
        expected: Mapping[str, Any],
        params: Params,
        annotations: Annotations,
        *,
        objective: str,
    ) -> dict[str, Tensor]:
        """Newton steps for a small linear classifier; larger ones and modules are searched."""
        options = self.classifier
        with_prior = objective == "posterior"
        if not isinstance(options, SoftmaxRegression) or (with_prior and options.prior != "normal"):
            return {}
        start, x = params["coefficients"], features_of(annotations)
        if start.numel() + self.n_classes > MOST:
            return {}
        scales = [options.coefficients_scale] * x.shape[1]
        if options.intercept:
            x = torch.cat([x, x.new_ones(len(x), 1)], -1)
            start = torch.cat([start, params["intercept"].unsqueeze(-1)], -1)
            scales.append(options.intercept_scale)
        weights = [0.0 if scale is None or not with_prior else scale**-2 for scale in scales]
        counts = expected["labels"]["prior"]
        found = softmax_newton(x, counts, start, x.new_tensor(weights))
        if not options.intercept:
            return {"coefficients": found}
        return {"coefficients": found[:, :-1].contiguous(), "intercept": found[:, -1].contiguous()}

    def coords(self, annotations: Annotations) -> dict[str, Sequence[Any]]:
        """Labels of every named dimension: the user's own ids, and numbered features."""
        labels = super().coords(annotations)
        return {**labels, "feature": range(features_of(annotations).shape[1])}

    def predict_proba(self, params: Params, x: Any) -> Tensor:
        r"""Class probabilities of tasks that nobody has labelled.

        Parameters
        ----------
        params
            Values of the classifier's sites: a fit's ``params``; with the linear classifier also
            its ``draws`` [chain, draw, \*shape], over which probabilities are averaged.
        x
            Features ``[n, d]``.

        Returns
        -------
        Tensor
            ``[n, K]``, rows summing to one.

        Raises
        ------
        DataError
            If ``x`` is no finite matrix or has another number of columns than the features of the
            fit, or ``params`` lack a site.
        """
        with torch.no_grad(), pyro.validation_enabled():
            x = as_matrix(x, "x")
            if not isinstance(self.classifier, SoftmaxRegression):
                return self._scored_at(params, x).softmax(-1)
            sites = {name: self._value(params, name) for name in self._linear_sites}
            width = sites["coefficients"].shape[-1]
            if x.shape[1] != width:
                raise DataError(f"x: expected {width} columns, as the fit has, got {x.shape[1]}")
            x = x.to(sites["coefficients"])
            if "intercept" in sites:
                sites["intercept"] = sites["intercept"].unsqueeze(-2)
            shares = softmax_scores(sites, x).softmax(-1)
            return shares.flatten(0, -3).mean(0) if shares.dim() > 2 else shares

    @property
    def _linear_sites(self) -> tuple[str, ...]:
        has = isinstance(self.classifier, SoftmaxRegression) and self.classifier.intercept
        return ("intercept", "coefficients") if has else ("coefficients",)

    @staticmethod
    def _value(params: Params, name: str) -> Tensor:
        if name not in params:
            raise DataError(f"params: expected a value of '{name}', got {', '.join(params)}")
        return params[name]

    def _scored(self, module: Any, features: Any) -> Tensor:
        scores = module(features)
        expected = (len(features), self.n_classes)
        if not isinstance(scores, Tensor) or scores.shape != expected:
            got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise DataError(f"classifier: expected scores of shape {expected}, got {got}")
        return scores

    def fixed(self, values: Params) -> CrowdProgram:
        """The program with the values of a module's parameters."""
        if isinstance(self.classifier, SoftmaxRegression):
            return self
        this: Any = self
        other: CrowdProgram = replace(this, classifier=self._module_at(values))
        return other

    def _module_at(self, params: Params) -> Any:
        """A copy of the module with other values of its parameters."""
        module: Any = copy.deepcopy(self.classifier)
        prefix = "" if isinstance(module, PyroModule) else f"{MODULE}$$$"
        for name, parameter in module.named_parameters():
            value = self._value(params, prefix + name.replace("_unconstrained", ""))
            if value.shape != parameter.shape:
                raise DataError(
                    f"params: expected '{prefix}{name}' of shape {tuple(parameter.shape)}, got "
                    f"{tuple(value.shape)}"
                )
            parameter.data = value.to(torch.get_default_dtype()).clone()
        return module.to(next(iter(params.values()))).eval()

    def _scored_at(self, params: Params, x: Tensor) -> Tensor:
        """The module's scores with other values of its parameters and sites."""
        module = self._module_at(params)
        like = next(iter(params.values()))
        with pyro.get_param_store().scope(), poutine.block():
            return self._scored(poutine.condition(module, data=dict(params)), x.to(like))

    def _check(self, annotations: Any) -> None:
        super()._check(annotations)
        features = features_of(annotations)
        if features.shape[1] == 0:
            raise DataError("annotations: expected at least one feature, got none")
        if is_validation_enabled():
            check_finite(features, "annotations.features")


def checked_classifier(value: Any, n_classes: int) -> SoftmaxRegression | torch.nn.Module:
    """The classifier that an argument asks for; None is a linear one with default priors.

    Raises
    ------
    DataError
        If it is neither a softmax regression of ``n_classes`` classes nor a module.
    """
    if value is None:
        return SoftmaxRegression(n_classes)
    if not isinstance(value, SoftmaxRegression | torch.nn.Module):
        raise DataError(
            "classifier: expected None, a SoftmaxRegression or a torch.nn.Module, got "
            f"{type(value).__name__}"
        )
    if isinstance(value, SoftmaxRegression) and value.n_classes != n_classes:
        raise DataError(f"classifier: expected {n_classes} classes, got {value.n_classes}")
    return value


def sample_softmax(options: SoftmaxRegression, x: Tensor) -> Sites:
    """Sample ``coefficients`` [K, d] and, where there is one, ``intercept`` [K]."""
    k, d = options.n_classes, x.shape[1]
    sites = {}
    if options.intercept:
        prior = coefficient_prior("normal", options.intercept_scale, x)
        sites["intercept"] = pyro.sample("intercept", prior.expand([k]).to_event(1))
    prior = coefficient_prior(options.prior, options.coefficients_scale, x)
    sites["coefficients"] = pyro.sample("coefficients", prior.expand([k, d]).to_event(2))
    return sites


def softmax_scores(sites: Sites, x: Tensor) -> Tensor:
    """Scores ``[*outside, n, K]``, logarithms of probabilities but for a constant.

    Parameters
    ----------
    sites
        ``coefficients`` ``[*outside, K, d]`` and, where there is one, ``intercept``, which
        broadcasts to the scores.
    x
        Features ``[n, d]``.
    """
    scores: Tensor = x @ sites["coefficients"].mT
    return scores + sites["intercept"] if "intercept" in sites else scores


def linear_start(classifier: Any, annotations: Annotations, shares: Tensor) -> Sites:
    """A linear classifier's start: the mean of class shares ``[m, K]``, whatever the features.

    Empty for a module, which starts where it is.
    """
    if not isinstance(classifier, SoftmaxRegression):
        return {}
    k, d = shares.shape[-1], features_of(annotations).shape[1]
    start = {"coefficients": shares.new_zeros(k, d)}
    if classifier.intercept:
        # A class without votes is improbable, not impossible.
        logs = (shares.mean(0) + 1 / (k * max(len(shares), 1))).log()
        start["intercept"] = logs - logs.mean()
    return start


def features_of(annotations: Annotations) -> Tensor:
    """Features ``[n_tasks, d]`` of annotations that must have them.

    Raises
    ------
    DataError
        If they have none.
    """
    if annotations.features is None:
        raise DataError(
            "annotations: expected features, one row per task; pass features= when building the "
            "annotations"
        )
    return annotations.features


def _with_features(annotations: Annotations, features: Tensor) -> Annotations:
    """The same labels with other features; what was counted stays."""
    other = replace(annotations, features=features)
    if annotations.label is not None:
        other.__dict__["label_counts"] = annotations.label_counts
    other.__dict__["_rows_by_task"] = annotations._rows_by_task
    return other
