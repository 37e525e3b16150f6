"""Makes an ordinary single-device PyTorch program train as fast as the hardware allows.

    import meshwright as mw

    step = mw.parallel(model, optimizer, loss)
    for batch in step.batches(loader):
        value = step(batch)

Importing this loads no torch: each name is loaded when it is first used.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshwright.cost import Prediction as Prediction
    from meshwright.cost import Verification as Verification
    from meshwright.errors import MeshwrightError as MeshwrightError
    from meshwright.graph import Graph as Graph
    from meshwright.hardware import Cluster as Cluster
    from meshwright.plan import Plan as Plan
    from meshwright.run import Step as Step
    from meshwright.run import parallel as parallel
    from meshwright.run import verify as verify

__version__ = "0.1.0"

__all__ = [
    "Cluster",
    "Graph",
    "MeshwrightError",
    "Plan",
    "Prediction",
    "Step",
    "Verification",
    "__version__",
    "parallel",
    "verify",
]

_HOMES = {
    "Cluster": "meshwright.hardware",
    "Graph": "meshwright.graph",
    "MeshwrightError": "meshwright.errors",
    "Plan": "meshwright.plan",
    "Prediction": "meshwright.cost",
    "Step": "meshwright.run._step",
    "Verification": "meshwright.cost",
    "parallel": "meshwright.run._parallel",
    "verify": "meshwright.run._verify",
}


class _Package(ModuleType):
    """This package: the function `parallel` is found under its name, although a room is called alike.

    Python sets every imported room as an attribute of its package, and would hide the function behind the room;
    `from meshwright.parallel import …` finds the room either way.
    """

    @property
    def parallel(self) -> Any:
        return _loaded("parallel")

    @parallel.setter
    def parallel(self, room: ModuleType) -> None:
        assert room.__name__ == f"{__name__}.parallel"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return _loaded(name)


def __dir__() -> list[str]:
    return sorted(__all__)


def _loaded(name: str) -> Any:
    return getattr(import_module(_HOMES[name]), name)


sys.modules[__name__].__class__ = _Package
