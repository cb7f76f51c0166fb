"""What options of policy gradients may be."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from likely.inference.engines.checks import (
    check_bool,
    check_choice,
    check_int,
    check_positive,
    check_seed,
    is_number,
)
from likely.inference.engines.stochastic import check_factory
from likely.inference.errors import OptionError
from likely.inference.imitation.advantages import check_choices

if TYPE_CHECKING:
    from likely.inference.imitation.policy_gradient import PolicyGradient

STEPS = ("gradient", "natural", "trust_region", "ppo")
# What this project calls otherwise, or decides itself.
OURS = {
    "learning_rate": "learning_rate",
    "gamma": "discount",
    "gae_lambda": "trace",
    "ent_coef": "entropy",
    "seed": "seed",
    "n_steps": "episodes",
    "env": "env",
    "policy": "policy",
}
THEIRS = (
    "batch_size",
    "n_epochs",
    "clip_range",
    "clip_range_vf",
    "normalize_advantage",
    "vf_coef",
    "max_grad_norm",
    "target_kl",
    "policy_kwargs",
)


def check_gradient(own: PolicyGradient) -> None:
    """Raise an `OptionError` unless options of `PolicyGradient` can be used, and together."""
    for name in ("iterations", "episodes", "products", "halvings"):
        check_int(name, getattr(own, name), 1)
    if own.horizon is not None:
        check_int("horizon", own.horizon, 1)
    for name in ("discount", "trace"):
        value = getattr(own, name)
        if value is not None and not (is_number(value) and 0 <= value <= 1):
            raise OptionError(f"{name} must be a number from 0 to 1, got {value!r}")
    check_choices(own.weight, own.judged_by)
    if own.weight == "gae" and own.judged_by in ("none", "mean"):
        raise OptionError("baseline: the generalised advantage needs 'value', or a function")
    if own.weight == "return" and own.judged_by not in ("none", "mean"):
        raise OptionError("baseline: a whole return takes 'none' or 'mean'")
    if own.episodes < 2 and own.judged_by in ("mean", "value") and own.step != "ppo":
        raise OptionError(f"baseline {own.judged_by!r} needs episodes=2 or more")
    for name in ("learning_rate", "radius"):
        if name == "radius" or own.learning_rate is not None:
            check_positive(name, getattr(own, name))
    if not is_number(own.anneal) or not 0 < own.anneal <= 1:
        raise OptionError(f"anneal must be a number above 0, at most 1, got {own.anneal!r}")
    for name in ("entropy", "damping"):
        value = getattr(own, name)
        if not is_number(value) or not 0 <= value < float("inf"):
            raise OptionError(f"{name} must be a finite number of at least 0, got {value!r}")
    if own.target is not None and not is_number(own.target):
        raise OptionError(f"target must be a number, got {own.target!r}")
    check_choice("step", own.step, STEPS)
    _check_ppo(own)
    if isinstance(own.optimizer, str):
        check_choice("optimizer", own.optimizer, ("adam", "sgd"))
    elif not callable(own.optimizer):
        raise OptionError(f"optimizer must be 'adam', 'sgd' or a callable: {own.optimizer!r}")
    else:
        check_factory(own.optimizer)
    check_seed("seed", own.seed)
    for name in ("discount_steps", "normalize", "progress"):
        check_bool(name, getattr(own, name))


def _check_ppo(own: PolicyGradient) -> None:
    if own.step != "ppo":
        if own.ppo is not None:
            raise OptionError(f"ppo: these are options of step='ppo', and step={own.step!r}")
        return
    if importlib.util.find_spec("stable_baselines3") is None:
        raise OptionError(
            "step='ppo' needs the package stable-baselines3, which is not installed: "
            "pip install 'likely[rl]'"
        )
    if own.weight == "return" or own.baseline not in (None, "value"):
        raise OptionError("weight, baseline: PPO has advantages of its own critic")
    _check_options({} if own.ppo is None else own.ppo)


def _check_options(given: Any) -> None:
    """Raise an `OptionError` unless these are options of PPO that are for users to choose."""
    if not isinstance(given, Mapping):
        raise OptionError(f"ppo: expected a dict of options, got {given!r}")
    for name in given:
        if name in OURS:
            raise OptionError(f"ppo: {name} is the option {OURS[name]!r} here")
        if name not in THEIRS:
            raise OptionError(f"ppo: expected {', '.join(THEIRS)}, got {name!r}")
    for name, least in (("batch_size", 1), ("n_epochs", 1)):
        if name in given:
            check_int(f"ppo: {name}", given[name], least)
    for name in ("clip_range", "clip_range_vf", "max_grad_norm", "target_kl"):
        optional = name in ("clip_range_vf", "target_kl") and given.get(name) is None
        schedule = name.startswith("clip_range") and callable(given.get(name))
        if name in given and not optional and not schedule:
            check_positive(f"ppo: {name}", given[name])
    weight = given.get("vf_coef", 0.5)
    if not is_number(weight) or not 0 <= weight < float("inf"):
        raise OptionError(f"ppo: vf_coef must be a finite number of at least 0, got {weight!r}")
    if "normalize_advantage" in given:
        check_bool("ppo: normalize_advantage", given["normalize_advantage"])
    own = given.get("policy_kwargs", {})
    if not isinstance(own, Mapping) or {"program", "x"} & own.keys():
        raise OptionError(f"ppo: policy_kwargs must be a dict of the critic's options, got {own!r}")


def engine_name(engine: Any) -> str:
    """What is written down of an engine and its options."""
    described: Mapping[str, Any] = getattr(engine, "described", dict)()
    return f"{type(engine).__name__} {name_of(described)}"


def name_of(value: Any) -> str:
    """What is written down of an option that is no plain value."""
    if value is None or isinstance(value, bool | int | float | str):
        return str(value)
    if isinstance(value, Mapping):
        items = [f"{name}: {name_of(item)}" for name, item in sorted(value.items())]
        return f"{{{', '.join(items)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(name_of, value))}]"
    if isinstance(value, partial):
        return f"{name_of(value.func)} {name_of(value.args)} {name_of(value.keywords)}"
    return getattr(value, "__qualname__", None) or type(value).__qualname__
