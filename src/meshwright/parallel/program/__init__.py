"""What does one training step compute? Forward and loss as one graph, on the user's own parameters.

In: the user's model, loss function and one batch. Out: a `Program` that gives the same loss, and whose graph can be
split over workers or cut into stages; its gradients come from autograd, as the model's do.
Reading order: `_program` (the value), `_signature` (which batches it is right for), `_capture` (how it is made) with
`_step_module`, `_light_import`, `_import`, `_regions`, `_cleaning`, `_fixed`, `_functional`, `_annotation`;
`_self_check` with `_distances` and `_peers`, `_store` (a program for every signature), `_segments` (its blocks as
modules), `_target` (what nodes call that torch does not have).
"""

from meshwright.parallel.program._capture import capture_program as capture_program
from meshwright.parallel.program._forward import Forward as Forward
from meshwright.parallel.program._forward import Structure as Structure
from meshwright.parallel.program._forward import taken_apart as taken_apart
from meshwright.parallel.program._program import Input as Input
from meshwright.parallel.program._program import Program as Program
from meshwright.parallel.program._segments import segment as segment
from meshwright.parallel.program._self_check import SelfCheck as SelfCheck
from meshwright.parallel.program._self_check import agrees as agrees
from meshwright.parallel.program._signature import Signature as Signature
from meshwright.parallel.program._signature import signature_of as signature_of
from meshwright.parallel.program._store import ProgramStore as ProgramStore
from meshwright.parallel.program._target import Target as Target
