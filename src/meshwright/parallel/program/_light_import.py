"""torch's export without a library that it loads for its annotations only.

`torch.export` imports `networkx`, 12 MB in every worker, for a partitioner that no capture calls; when it is loaded it
names a class of it as the type of what its functions return.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_NAME = "networkx"
_CALLER = "torch._functorch."


class _Unloaded(ModuleType):
    """Stands for the library: it is loaded when somebody wants something of it, but for torch's annotations.

    It says where the library lies, which torch's compiler asks of what it leaves alone.
    """

    def __init__(self) -> None:
        super().__init__(_NAME)
        self.__spec__ = find_spec(_NAME)
        self.is_imported = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        caller = str(sys._getframe(1).f_globals.get("__name__"))
        if self.is_imported and caller.startswith(_CALLER):
            return Any
        if sys.modules.get(_NAME) is self:
            del sys.modules[_NAME]
        return getattr(importlib.import_module(_NAME), name)


@contextmanager
def annotations_only() -> Iterator[None]:
    """Inside, what imports the library gets a module that loads it at its first use; others get the library itself."""
    if _NAME in sys.modules:
        yield
        return
    stand_in = _Unloaded()
    sys.modules[_NAME] = stand_in
    try:
        yield
    finally:
        stand_in.is_imported = False
        if sys.modules.get(_NAME) is stand_in:
            del sys.modules[_NAME]
