"""Layouts but for their stages: every combination of degrees, modes and levels that is legal."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product
from math import ceil

from meshwright.cost import Exchange, Mesh, Offload, Schedule, Sharding
from meshwright.cost.hybrid import AttentionMode, Form, HybridPricer, Layout, Replica, live
from meshwright.graph import Splits
from meshwright.plan._goal import Goal
from meshwright.plan._layouts import divisors
from meshwright.plan._space import accumulations, may_offload
from meshwright.plan.search._choices import Choices, Devices, pinned_among
from meshwright.plan.search._reordered import first_orders, turned
from meshwright.plan.search._sending import carrier, may_flow, sent
from meshwright.plan.search._shards import with_shards
from meshwright.units import MIB, Bytes

_BUCKET_SIZE: Bytes = 25 * MIB  # torch's own; others are looked at where they are pinned
_CHUNKS = 8  # stages of one worker, interleaved, at most; published runs use up to 6
WHOLE: tuple[Sharding, ...] = ("none", "optimizer", "gradients")  # levels with whole parameters on every data rank
IN_SHARDS: tuple[Sharding, ...] = ("parameters",)
_MOST_ORDERED = 5  # kinds of devices in a pipeline whose orders are all looked at


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """A layout without its stages.

    Args:
        layout: with one stage, and nothing computed again.
        num_stages: that it is to have.
    """

    layout: Layout
    num_stages: int

    @property
    def form(self) -> Form:
        """What its timing depends on besides durations."""
        return form_of(self.layout, self.layout.schedule, self.num_stages)


def _anything(_shape: Layout, _examples: float) -> bool:
    return True


def shapes(
    pricer: HybridPricer, choices: Choices, devices: Devices, *, worth: Callable[[Layout, float], bool] = _anything
) -> Iterator[Layout]:
    """Degrees of tensor, context, expert and pipeline with micro-batches; data sharding is still open.

    The data axes are `dp_replicate` here.

    Args:
        worth: asked, where all devices are of one kind, about a layout without its data ranks and the examples of each
            micro-batch, before its attention and its order are chosen; what is not worth it is left out.
    """
    splits, pins = choices.splits, choices.goal.pins
    tensor, context, expert = splits.tensor, splits.context, splits.expert
    for tp in pinned_among(pins.tensor, (1, *(tensor.degrees if tensor else ()))):
        for cp in pinned_among(pins.context, (1, *(context.degrees if context else ()))):
            for pp in pinned_among(pins.pipeline, range(1, len(splits.cuts) + 2)):
                dp, rest = divmod(devices.total, tp * cp * pp)
                if rest or dp < 1 or dp > pricer.graph.batch_size:
                    continue
                if len(devices.kinds) > 1 and not _whole(devices, Mesh(pp=pp, dp_replicate=dp, cp=cp, tp=tp)):
                    continue
                for ep in pinned_among(pins.expert, (1, *(expert.degrees if expert else ()))):
                    if (dp * cp) % ep == 0:
                        mesh = Mesh(pp=pp, dp_replicate=dp, cp=cp, ep=ep, tp=tp)
                        yield from _modes(pricer, choices, devices, mesh, worth)


def _whole(devices: Devices, mesh: Mesh) -> bool:
    """Whether stages or replicas can each lie on one kind of devices."""
    inner = mesh.tp * mesh.cp
    return any(all(count % (inner * one) == 0 for count in devices.counts) for one in (mesh.num_shares, mesh.pp))


def _modes(
    pricer: HybridPricer, choices: Choices, devices: Devices, mesh: Mesh, worth: Callable[[Layout, float], bool]
) -> Iterator[Layout]:
    host = pricer.hosts[devices.kinds[0]]
    on_cpu = host.device.kind == "cpu"
    threads = max(1, host.device.cores // max(1, ceil(devices.total / host.count))) if on_cpu else 1
    exchange = Exchange(
        transport=carrier(pricer.cluster, [pricer.hosts[kind] for kind in devices.kinds], choices.goal)
    )  # fmt: skip
    examples = ceil(pricer.graph.batch_size / mesh.num_shares)
    counts = accumulations(pricer.graph, (1,) * mesh.num_shares, choices.goal)
    firsts = first_orders(pricer, choices, devices, mesh, threads=threads)
    ways = list(product(_attentions(choices.splits, mesh), firsts))
    for sequence, kernels, precision in product(_sequences(choices, mesh), choices.kernels, choices.precisions):
        for count in counts:
            base = Layout(
                mesh=mesh, replicas=(), sequence=sequence, micro_batches=count, kernels=kernels, precision=precision,
                threads=threads, exchange=exchange,
            )  # fmt: skip
            if len(devices.kinds) == 1 and not worth(base, examples / count):
                continue
            for attention, order in ways:
                plain = attention == base.attention and order == base.order
                shape = base if plain else replace(base, attention=attention, order=order)
                replicas = _replicas(pricer, devices, shape)
                if replicas is not None:
                    yield replace(shape, replicas=replicas)


def _sequences(choices: Choices, mesh: Mesh) -> Sequence:
    tensor = choices.splits.tensor
    legal = ("whole", "split") if mesh.tp > 1 and tensor is not None and tensor.split else ("whole",)
    return pinned_among(choices.goal.pins.sequence, legal)


def _attentions(splits: Splits, mesh: Mesh) -> tuple[AttentionMode, ...]:
    if mesh.cp == 1 or splits.context is None:
        return ("ring",)
    handed = splits.context.all_to_all_degrees
    return ("ring", "all_to_all") if mesh.cp * mesh.tp in handed or (mesh.cp in handed and mesh.tp == 1) else ("ring",)


def _replicas(pricer: HybridPricer, devices: Devices, layout: Layout) -> tuple[Replica, ...] | None:
    """Who stands where; None where a stage or a replica would lie on two kinds of devices.

    On mixed hardware each replica's examples go by its speed, so that all end together.
    """
    mesh, size = layout.mesh, pricer.graph.batch_size
    even = ceil(size / mesh.num_shares) / layout.micro_batches
    if len(devices.kinds) == 1:
        return (Replica(count=mesh.num_shares, kinds=(devices.kinds[0],) * mesh.pp, examples=even),)
    inner = mesh.tp * mesh.cp
    by_stage = live(mesh, layout.order)[:1] == ("pp",)
    block = inner * (mesh.num_shares if by_stage else mesh.pp)
    if any(count % block for count in devices.counts):
        return None
    if by_stage:
        kinds = tuple(
            kind for kind, count in zip(devices.kinds, devices.counts, strict=True) for _ in range(count // block)
        )
        return (Replica(count=mesh.num_shares, kinds=kinds, examples=even),)
    counts = [count // block for count in devices.counts]
    speeds = [1 / pricer.pieces(
        kind, layout.division, even / mesh.cp, layout.kernels, layout.precision, pricer.processes(layout, kind)
    ).total for kind in devices.kinds]  # fmt: skip
    return _by_speed(devices.kinds, counts, speeds, layout, size)


def _by_speed(
    kinds: Sequence[int], counts: Sequence[int], speeds: Sequence[float], layout: Layout, size: int
) -> tuple[Replica, ...] | None:
    """Whole examples per data rank, in proportion to speed; the fastest ranks share out what does not go round."""
    total = sum(count * speed for count, speed in zip(counts, speeds, strict=True))
    shares = [max(1, int(size * speed / total)) for speed in speeds]
    left = size - sum(share * count for share, count in zip(shares, counts, strict=True))
    if left < 0:
        return None
    more = [0] * len(kinds)
    for place in sorted(range(len(kinds)), key=lambda place: -speeds[place]):
        more[place] = min(left, counts[place])
        left -= more[place]
    return tuple(
        Replica(count=number, kinds=(kind,) * layout.mesh.pp, examples=examples / layout.micro_batches)
        for kind, count, share, extra in zip(kinds, counts, shares, more, strict=True)
        for number, examples in ((extra, share + 1), (count - extra, share))
        if number
    )


def frames(pricer: HybridPricer, shape: Layout, choices: Choices) -> Iterator[Frame]:
    """Sharding, sending, schedules, numbers of stages and the order of kinds for a shape."""
    for layout in (one for level in levels(pricer, shape, choices) for one in with_shards(pricer, choices.goal, level)):
        for schedule, stages in schedules(layout, choices):
            for one in (layout, *offloaded(layout, choices)):
                yield from arranged(framed(one, schedule, stages))


def arranged(frame: Frame) -> Iterator[Frame]:
    """A frame with the kinds of its pipeline's devices in every order; in all of them as much work and memory."""
    pipelines = frame.layout.replicas
    kinds = tuple(dict.fromkeys(pipelines[0].kinds))
    if not 1 < len(kinds) <= _MOST_ORDERED:
        yield frame
        return
    for order in permutations(kinds):
        placed = tuple(replace(one, kinds=tuple(sorted(one.kinds, key=order.index))) for one in pipelines)
        yield replace(frame, layout=replace(frame.layout, replicas=placed))


def levels(
    pricer: HybridPricer, shape: Layout, choices: Choices, *, among: Sequence[Sharding] = (*WHOLE, *IN_SHARDS)
) -> Iterator[Layout]:  # fmt: skip
    """Sharding, buckets and what gradients are sent as, for a shape.

    Args:
        among: what is sharded.
    """
    exchange = replace(shape.exchange, bucket_size=choices.goal.pins.bucket_size or _BUCKET_SIZE)
    for sharding, mesh in _shardings(shape, choices.goal, among):
        layout = replace(shape, mesh=mesh, sharding=sharding, exchange=exchange, offload=choices.offloads[0])
        if sharding == "parameters" and exchange.transport == "shared_memory" and not choices.goal.pins.transport:
            # torch scatters and gathers parameters over a process group of its own
            layout = replace(layout, exchange=replace(exchange, transport="gloo"))
        if _goes(layout, layout.offload, choices.goal):
            for one in turned(pricer, layout, choices):
                yield from sent(one, choices.goal, choices.hosts) if choices.departs else (one,)


def offloaded(layout: Layout, choices: Choices) -> Iterator[Layout]:
    """The same with other parts in the hosts' memory: what is kept there takes time and leaves room."""
    for offload in choices.offloads[1:]:
        if _goes(layout, offload, choices.goal):
            yield replace(layout, offload=offload)


def _goes(layout: Layout, offload: Offload, goal: Goal) -> bool:
    if offload == "none":
        return True
    compiled, recompute = layout.kernels.compiled, goal.pins.recompute
    return may_offload(offload, layout.sharding, layout.mesh, compiled=compiled, recompute=recompute)


def keeps_all(layout: Layout) -> bool:
    """Whether nothing may be computed again: it would meet newer parameters, or is in the hosts' memory instead."""
    return layout.schedule == "asynchronous" or layout.offload == "activations"


def schedules(layout: Layout, choices: Choices) -> Iterator[tuple[Schedule, int]]:
    """Schedules with numbers of stages."""
    pins, workers = choices.goal.pins, layout.mesh.pp
    if workers == 1:
        if pins.schedule is None and pins.stages in (None, 1):
            yield layout.schedule, 1
        return
    for schedule, chunks in _schedules(workers, len(choices.splits.cuts), layout.micro_batches, pins.schedule):
        if pins.schedule in (None, schedule) and pins.stages in (None, workers * chunks):
            yield schedule, workers * chunks
    if may_flow(layout, choices.goal) and pins.stages in (None, workers):
        yield "asynchronous", workers


def form_of(layout: Layout, schedule: Schedule, stages: int) -> Form:
    """What the timing of a layout with a schedule and so many stages depends on besides durations."""
    return Form(
        schedule=schedule, num_workers=layout.mesh.pp, num_stages=stages, micro_batches=layout.micro_batches
    )  # fmt: skip


def framed(layout: Layout, schedule: Schedule, stages: int) -> Frame:
    """The frame with a schedule."""
    return Frame(
        layout=replace(layout, schedule=schedule) if schedule != layout.schedule else layout, num_stages=stages
    )


def _shardings(shape: Layout, goal: Goal, among: Sequence[Sharding]) -> Iterator[tuple[Sharding, Mesh]]:
    """Levels and degrees. With several micro-batches gradients are whole until the last, as with sharded state only."""
    pins, mesh = goal.pins, shape.mesh
    shares = mesh.num_shares
    single = shape.micro_batches == 1 or pins.sharding == "gradients"
    for level in pinned_among(pins.sharding, among):
        if level == "gradients" and not single:
            continue
        sharded = divisors(shares) if level == "parameters" else (shares,)
        for shard in (1,) if level == "none" else tuple(degree for degree in sharded if degree > 1):
            if pins.data in (None, shares // shard) and pins.shard in (None, shard):
                yield level, replace(mesh, dp_replicate=shares // shard, dp_shard=shard)


def _schedules(workers: int, cuts: int, micro_batches: int, pinned: Schedule | None) -> Iterator[tuple[Schedule, int]]:
    """Schedules of exact steps with stages per worker. Only a pin asks for GPipe, never better than 1F1B."""
    yield "1f1b", 1
    yield "zero_bubble", 1
    if pinned == "gpipe":
        yield pinned, 1
    for chunks in range(2, min(_CHUNKS, (cuts + 1) // workers) + 1) if micro_batches > 1 else ():
        yield "interleaved", chunks
