"""How a plan lies on its devices: the grid by axis, stages, split parameters, exchanges, and the run to its end."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from meshwright.cost import Mesh, Placement, Strategy
from meshwright.cost.hybrid import order_of
from meshwright.plan import Change, Plan, overflow
from meshwright.report._rank_memory_table import memory_by_rank_table
from meshwright.units import Dollars, Joules, format_bytes, format_days, format_scaled, format_seconds

_MOST_STAGES = 32  # rows shown
_MOST_GATHERED = 8  # lines shown


def layout_view(plan: Plan) -> RenderableType:
    """What more than one worker or a whole run has, and what the model was not captured whole for; else nothing."""
    return Group(*_parts(plan))


def change_view(change: Change) -> RenderableType:
    """A plan beside what a change would make of it."""
    table = Table(title="What the change would do", title_justify="left")
    for name in ("", "plan", "step", "memory", ""):
        table.add_column(name, overflow="fold")
    for name, one in (("now", change.before), ("then", change.after)):
        table.add_row(name, Text(one.summary), format_seconds(one.step), format_bytes(one.memory), Text(one.reason))
    return table


def _parts(plan: Plan) -> Iterator[RenderableType]:
    if plan.strategy.num_workers > 1:
        yield Text.assemble(("Grid      ", "bold"), grid(plan.strategy))
    if plan.strategy.sharding != "none":
        yield Text.assemble(("Shards    ", "bold"), shards(plan.strategy))
    if len(plan.stages) > 1:
        yield _stages(plan)
    if plan.strategy.num_workers > 1 and plan.held:
        yield memory_by_rank_table(plan.held)
    if plan.strategy.placements:
        yield _placements(plan.strategy)
    if plan.prediction.collectives:
        yield _exchanges(plan)
    if plan.prediction.high:
        yield Text.assemble(("Each step ", "bold"), _step_price(plan))
    if plan.capacity:
        yield Text.assemble(("Memory    ", "bold"), _fullest(plan))
    if plan.target is not None:
        target = plan.target
        energy = f", {format_scaled(target.energy / 3600, 'Wh')}" if target.energy else ""
        money = f", ${target.money:,.0f}" if target.money else ""
        run = f"{target.steps:,} steps, {target.tokens:.3g} tokens: {format_days(target.time)}{energy}{money}"
        yield Text.assemble(("Whole run ", "bold"), run)
    for point in plan.front[1:]:
        money = f", ${point.money:,.4g}" if point.money else ""
        text = f"{format_seconds(point.step)}{money}, {format_bytes(point.memory)}: {point.summary}"
        yield Text.assemble(("Also      ", "bold"), text)
    yield from _gathered(plan)
    for construct in plan.uncaptured:
        yield Text.assemble(("Captured  ", "bold"), construct)
    if plan.gap:
        yield Text(f"At most {plan.gap:.2%} could be gained by what the search only bounded.", style="dim")


def _gathered(plan: Plan) -> Iterator[RenderableType]:
    """What every worker of a split model does whole, because no rule divides it."""
    for operation in plan.gathered[:_MOST_GATHERED]:
        yield Text.assemble(("Whole     ", "bold"), operation)
    if (more := len(plan.gathered) - _MOST_GATHERED) > 0:
        yield Text.assemble(("Whole     ", "bold"), f"and {more} more operations without a rule")


def _step_price(plan: Plan) -> str:
    """Energy and money of a step, and of a million tokens."""
    prediction, per_million = plan.prediction, 1e6 / plan.tokens if plan.tokens else 0.0
    interval = f" ({format_seconds(prediction.low)} to {format_seconds(prediction.high)})" if prediction.high else ""
    text = format_seconds(prediction.time.step) + interval + _priced(prediction.energy, prediction.money)
    million = _priced(prediction.energy * per_million, prediction.money * per_million).removeprefix(", ")
    return f"{text}; a million tokens: {million}" if million else text


def _priced(energy: Joules, money: Dollars) -> str:
    """What is known of both, each after a comma."""
    return (f", {format_scaled(energy / 3600, 'Wh')}" if energy else "") + (f", ${money:,.4g}" if money else "")


def _fullest(plan: Plan) -> str:
    """The fullest worker's peak, when it is, and how likely it is too much."""
    peak, each = plan.prediction.memory.peak, plan.strategy.num_workers // plan.strategy.mesh.pp
    # Where devices differ, the fullest has least to spare, and others may hold more.
    found = next((one for one in plan.held if (one.memory.peak, one.capacity) == (peak, plan.capacity)), None)
    when = f", in the {found.moment}" if found is not None and found.moment else ""
    where = f" of stage {found.first // each + 1}" if found is not None and len(plan.stages) > 1 else ""
    share = f"{format_bytes(peak)} of {format_bytes(plan.capacity)}{when}{where}"
    return f"{share}; {overflow(plan):.1%} likely to run out"


def grid(strategy: Strategy) -> str:
    """The mesh from the axis whose neighbours stand farthest apart to the nearest: `pp 4 × dp_shard 16 × tp 8`."""
    shown = [f"{axis} {degree}" for axis in order_of(strategy) if (degree := getattr(strategy.mesh, axis)) > 1]
    inside = f", ep {strategy.mesh.ep} inside the data axes" if strategy.mesh.ep > 1 else ""
    return (" × ".join(shown) or "1 worker") + inside


def shards(strategy: Strategy) -> str:
    """Who keeps how much of what is in shards: `of parameters, by data rank: 0 to 3: 15.0% each, 4: 40.0%`."""
    if not strategy.shards:
        degree = strategy.mesh.dp_shard
        return f"of {strategy.sharding}, over dp_shard: {1 / degree:.3%} each"
    total, told, first = sum(strategy.shards), [], 0
    for size, same in groupby(strategy.shards):
        last = first + len(list(same)) - 1
        ranks = f"{first} to {last}" if last > first else f"{first}"
        told.append(f"{ranks}: {size / total:.1%}{' each' if last > first else ''}")
        first = last + 1
    return f"of {strategy.sharding}, by data rank: {', '.join(told)}"


def _stages(plan: Plan) -> Table:
    table = Table(title="Stages", title_justify="left")
    for name in ("stage", "workers", "begins with", "blocks", "computed again", "memory", "when"):
        table.add_column(name, overflow="fold")
    for number, stage in enumerate(plan.stages[:_MOST_STAGES], start=1):
        table.add_row(
            str(number), _members(plan.strategy.mesh, stage.worker), stage.first or "the model", str(stage.blocks),
            str(stage.recomputed), format_bytes(stage.memory), stage.moment,
        )  # fmt: skip
    return table


def _members(mesh: Mesh, place: int) -> str:
    """The workers at a place along `pp`, the outermost axis: as in traces, counted from 0."""
    each = mesh.num_workers // mesh.pp
    return f"{place * each} to {(place + 1) * each - 1}" if each > 1 else str(place)


def _placements(strategy: Strategy) -> Table:
    """Split parameters, equal ones of repeated blocks together."""
    table = Table(title="Split parameters", title_justify="left")
    for name in ("parameter", "axis", "dim", "how many"):
        table.add_column(name, overflow="fold")
    table.caption = "All others are whole on every worker of the axis."
    table.caption_justify = "left"
    for (name, axis, dim), count in _placed(strategy.placements).items():
        table.add_row(name, axis, dim, str(count))
    return table


def _placed(placements: Iterable[Placement]) -> Counter[tuple[str, str, str]]:
    """How many parameters each row of the table stands for: name, axis, and where along it they are split.

    Names have no numbers where all that then share one are split alike.
    """
    where = {
        item.parameter: (item.axis, f"{item.dim}" + (f" in {item.groups} parts" if item.groups > 1 else ""))
        for item in placements
    }
    sharers: dict[str, set[str]] = defaultdict(set)
    kinds: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for path, place in where.items():
        for name in _common_names(path):
            sharers[name].add(path)
            kinds[name].add(place)
    shown = {name: _varying(paths) for name, paths in sharers.items()}
    counts: Counter[tuple[str, str, str]] = Counter()
    for path, place in where.items():
        alike = (shown[name] for name in _common_names(path) if len(kinds[name]) == 1)
        counts[next(alike, path), *place] += 1
    return counts


def _common_names(path: str) -> Iterator[str]:
    """The path without its numbers, and without its first one: what others like it may be called too."""
    numbers = [place for place, part in enumerate(path.split(".")) if part.isdigit()]
    for starred in (numbers, numbers[:1]):
        yield _starred(path, starred)


def _varying(paths: Iterable[str]) -> str:
    """What paths that differ in numbers only have in common."""
    columns = zip(*(path.split(".") for path in paths), strict=True)
    return ".".join(next(iter(parts)) if len(parts) == 1 else "*" for parts in map(set, columns))


def _starred(path: str, places: Sequence[int]) -> str:
    return ".".join("*" if place in places else part for place, part in enumerate(path.split(".")))


def _exchanges(plan: Plan) -> Table:
    table = Table(title="Exchanged in a step by one worker", title_justify="left")
    for name in ("collective", "axis", "calls", "bytes", "time"):
        table.add_column(name, overflow="fold")
    for item in plan.prediction.collectives:
        table.add_row(item.name, item.axis, str(item.count), format_bytes(item.size), format_seconds(item.duration))
    return table
