"""What frameworks hold besides what the model needs: facts of each, and few parameters fitted to its measurements."""

import tomllib
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib import resources
from typing import Literal

from meshwright.errors import UsageError
from meshwright.units import Bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Backlog:
    """Collectives' temporaries that the allocator cannot use again yet.

    The host launches far ahead of the device, and a tensor that another stream works on is only free when that stream
    is done. Where the host waits for messages, nothing waits; otherwise the share of what could be waiting is a
    logistic function.

    Args:
        per_exchange: waiting share of the exchanges of all forwards under way.
        constant: whole tensors waiting besides.
        offset: the logistic's constant.
        single: added without a pipeline.
        pair: added with two stages, whose host is only ahead where it is the faster one.
        lead: per doubling of the device's time for a layer over its host's, with two stages.
    """

    per_exchange: float = 0.0
    constant: float = 0.0
    offset: float = 0.0
    single: float = 0.0
    pair: float = 0.0
    lead: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Conventions:
    """One framework's.

    Args:
        name: in `memory.toml`.
        seen: which worker's memory is reported: the first stage's, or the fullest one's.
        placement: layers spread evenly, or by computing cost with the output layer's counted.
        parameter: of the copy computed with (B per element).
        gradient: accumulated (B per element).
        produced: made by one backward before it is accumulated (B per element).
        bucket: buffers of data-parallel replicas (B per element).
        optimizer: state, with a master copy where there is one (B per element).
        updated: more of it while the optimizer runs: gradients converted to its own type (B per element).
        gathered: units kept whole at once where parameters are in shards, their gradients counted.
        whole: of such a unit (B per element).
        copied: more tensors of the query heads' width that attention keeps, with several sequences in a micro-batch.
        dropout: whether models of this framework are trained with it where nothing is said.
        selective: what `selective` recomputation still saves: everything but scores, or alternate matrix products.
        produced_share: share of `produced` alive at the worst moment of a backward.
        activations: factor on activations: what is not counted, and the allocator's gaps between them.
        layer: factor on the largest layer's activations in a backward.
        logits: alive in the loss (B per element of the logits).
        logits_kept: more in every micro-batch after the first (B per element).
        state: factor on parameters, gradients and optimizer state: rounding and gaps.
        exchanged: whole tensors between tensor-parallel regions alive at once.
        fixed: context, libraries' workspaces, communicators (B).
        backlog: temporaries that wait for other streams.
        spread: standard deviation of ln(measured / predicted).
        limit: share of the device's memory at which a predicted peak fails in half of the cases.
        limit_spread: standard deviation of the logarithm of that share.
    """

    name: str
    seen: Literal["first", "fullest"] = "fullest"
    placement: Literal["even", "balanced"] = "even"
    parameter: float
    gradient: float
    produced: float = 0.0
    bucket: float = 0.0
    optimizer: float
    updated: float = 0.0
    gathered: float = 2.0
    whole: float = 2.0
    copied: float = 0.0
    dropout: Literal["on", "off"] = "off"
    selective: Literal["scores", "alternate"] = "scores"
    produced_share: float = 1.0
    activations: float = 1.0
    layer: float = 1.0
    logits: float = 10.0
    logits_kept: float = 0.0
    state: float = 1.0
    exchanged: float = 2.0
    fixed: Bytes = 0
    backlog: Backlog = Backlog()
    spread: float = 0.1
    limit: float = 0.9
    limit_spread: float = 0.1


@cache
def known_conventions() -> dict[str, Conventions]:
    """Every framework's, by name, from `memory.toml`."""
    text = resources.files("meshwright.cost.memory").joinpath("memory.toml").read_text("utf-8")
    return {name: _read(name, entry) for name, entry in tomllib.loads(text).items()}


def conventions(name: str) -> Conventions:
    """One framework's.

    Raises:
        UsageError: not among the known ones.
    """
    known = known_conventions()
    if name not in known:
        raise UsageError(f"no memory conventions named {name!r}", alternatives=[f"known: {', '.join(known)}"])
    return known[name]


def _read(name: str, entry: dict[str, object]) -> Conventions:
    values = dict(entry)
    backlog = values.pop("backlog", {})
    allowed = {item.name for item in fields(Conventions)}
    unknown = sorted(set(values) - allowed)
    if unknown or not isinstance(backlog, dict):
        raise UsageError(f"memory.toml: {name} has unknown fields {', '.join(unknown)}")
    return replace(Conventions(name=name, **values), backlog=Backlog(**backlog))  # type: ignore[arg-type]
