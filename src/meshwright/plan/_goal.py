"""What the user asks of a plan."""

from dataclasses import dataclass, field
from typing import Literal

from meshwright.cost import Allowance, CompressionMethod, Offload, Schedule, Sharding, TransportName, UpdatesKind
from meshwright.units import Bytes, Dollars, Seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Pins:
    """Choices that the user made; None leaves one to the solver. The keys of `plan={…}` and of `--set`."""

    workers: int | None = None
    threads: int | None = None
    data: int | None = None
    shard: int | None = None
    sharding: Sharding | None = None
    shards: str | None = None
    tensor: int | None = None
    sequence: Literal["whole", "split"] | None = None
    context: int | None = None
    expert: int | None = None
    pipeline: int | None = None
    schedule: Schedule | None = None
    stages: int | None = None
    order: str | None = None
    accumulation: int | None = None
    sharing: Literal["fixed", "adaptive"] | None = None
    recompute: Literal["none", "all"] | None = None
    offload: Offload | None = None
    matrix_library: Literal["default", "onednn"] | None = None
    optimizer: Literal["as_written", "fused"] | None = None
    allocator: Literal["default", "retained"] | None = None
    memory_format: Literal["as_written", "channels_last"] | None = None
    random: Literal["default", "sfc64"] | None = None
    compiled: bool | None = None
    transport: TransportName | None = None
    bucket_size: Bytes | None = None
    reduction: Literal["as_written", "bfloat16", "float16"] | None = None
    compression: CompressionMethod | Literal["none"] | None = None
    compression_rank: int | None = None
    compression_share: float | None = None
    updates: UpdatesKind | Literal["every_step"] | None = None
    interval: int | None = None
    islands: int | None = None
    outer_rate: float | None = None
    outer_momentum: float | None = None
    fragments: int | None = None
    delay: int | None = None


Objective = Literal["time", "cost", "energy", "memory"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """What is asked: the fastest step within the memory, with the pinned choices and allowances; or the cheapest.

    Args:
        pins: choices made by the user.
        allow: departures from the user's mathematics that are permitted.
        memory_limit: per worker process, or per host where several share it (B); 0: what the device has.
        steps: how many steps the run will take, where known; decides whether compiling pays.
        minimize: what is made small: a step's time, its money, its energy, or the fullest worker's memory.
        tokens: that the run trains on; gives its number of steps.
        deadline: the run may take so long (s); 0: as long as it takes. Needs `tokens` or `steps`.
        budget: the run may cost so much ($); 0: what it costs. Needs `tokens` or `steps`.
        origins: where a pin comes from, by its name: `file` or `command line`; a pin without one was written in the
            script, `plan={…}`, and counts as `file`.
    """

    pins: Pins = Pins()
    allow: tuple[Allowance, ...] = ()
    memory_limit: Bytes = 0
    steps: int = 0
    minimize: Objective = "time"
    tokens: float = 0.0
    deadline: Seconds = 0.0
    budget: Dollars = 0.0
    origins: dict[str, str] = field(default_factory=dict)

    @property
    def weighs_more_than_time(self) -> bool:
        """Whether money, energy or memory is asked about, of which a short trial says nothing."""
        return self.minimize != "time" or self.budget > 0
