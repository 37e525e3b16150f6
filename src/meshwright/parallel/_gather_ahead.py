"""Blocks whose parameters are gathered while the block before them computes."""

from functools import partial

from torch import nn
from torch.distributed.fsdp import FSDPModule, UnshardHandle


class GatherAhead:
    """Has each block gathered from the moment that the one before it begins to compute, in forward and backward.

    On accelerators `fully_shard` does so by itself, with streams; elsewhere it waits for every gather.
    What comes after a block is what came after it last, so that the first forward gathers as `fully_shard` does. All
    workers run the same blocks in the same order, or none of them could gather.

    Args:
        root: after `fully_shard`, its blocks too.
    """

    def __init__(self, root: FSDPModule) -> None:
        self._following: dict[FSDPModule | None, FSDPModule] = {}
        self._reached: FSDPModule | None = None
        self._under_way: dict[FSDPModule, UnshardHandle] = {}
        self._is_forward = False
        # torch's own gathering ahead in the backward goes on beside computing; there is no public name for it
        root._set_unshard_async_op(True)
        assert isinstance(root, nn.Module)
        blocks = [module for module in root.modules() if isinstance(module, FSDPModule) and module is not root]
        self._hooks = [
            root.register_forward_pre_hook(self._begin),
            # also where the forward fails: nothing may stay gathered from before an update
            root.register_forward_hook(self._end, always_call=True),
            *(block.register_forward_pre_hook(partial(self._reach, block)) for block in blocks),
        ]

    def close(self) -> None:
        """Takes the hooks off."""
        for hook in self._hooks:
            hook.remove()

    def _begin(self, *_: object) -> None:
        self._is_forward = True
        self._reached = None
        self._gather_next()

    def _reach(self, block: FSDPModule, *_: object) -> None:
        """A block begins, whole; a block that is computed again, during the backward, is followed by no other."""
        if self._is_forward:
            self._under_way.pop(block, None)
            self._following[self._reached] = block
            self._reached = block
            self._gather_next()

    def _gather_next(self) -> None:
        block = self._following.get(self._reached)
        if block is not None and block is not self._reached and block not in self._under_way:
            handle = block.unshard(async_op=True)
            assert handle is not None
            self._under_way[block] = handle

    def _end(self, *_: object) -> None:
        """Blocks that this forward left out are put back: the next one would find parameters from before the update."""
        self._is_forward = False
        for block, handle in self._under_way.items():
            handle.wait()
            block.reshard()
        self._under_way = {}
