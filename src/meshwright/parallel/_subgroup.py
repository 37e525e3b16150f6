"""A process group that its members alone make."""

from collections.abc import Sequence

import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d


def subgroup(
    ranks: Sequence[int], name: str, whole: dist.ProcessGroup, *, backend: str | None = None
) -> dist.ProcessGroup | None:
    """A process group that its members alone make; None for one member.

    Args:
        ranks: of the members among all processes there are.
        name: never used before; the same on all members.
        whole: a group that they are all in, for its store.
        backend: what carries the tensors; None: the same as in `whole`.

    `dist.new_group` has to be called by every process there is, of which a trial's strategy may use some only; its
    `use_local_synchronization` takes names again under which the store still holds the addresses of closed groups.
    """
    if len(ranks) == 1:
        return None
    world = c10d._world
    usual, store = world.pg_map[whole]
    chosen = c10d.Backend(backend or usual)
    unique = f"{name}/{'-'.join(map(str, ranks))}"
    made, _ = c10d._new_process_group_helper(
        len(ranks), list(ranks).index(dist.get_rank()), list(ranks), chosen, _root(store),
        c10d.GroupName(unique), timeout=c10d._get_default_timeout(chosen),
    )  # fmt: skip
    assert isinstance(made, dist.ProcessGroup)
    world.pg_group_ranks[made] = {member: place for place, member in enumerate(ranks)}
    return made


def _root(store: dist.Store) -> dist.Store:
    """The store under all prefixes: names are unique already."""
    return store.underlying_store if isinstance(store, dist.PrefixStore) else store
