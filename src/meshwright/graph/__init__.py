"""What does a step do? Operations, parameters, saved activations and their lifetimes, for any batch size.

In: model, optimizer, loss, one batch. Out: a `Graph`.
Reading order: `_linear`, `_splits`, `_graph` (the data), `_regions`, `_sections`, `_cuts`,
`_derived_splits` (what splits would do), `_transformer` (a model by its dimensions), `_document` (the
data as a file), `capture` (the only part that loads torch; its docstring names the order of the files it is made of).
"""

from meshwright.graph._cuts import Instance as Instance
from meshwright.graph._cuts import instances as instances
from meshwright.graph._derived_splits import derived_splits as derived_splits
from meshwright.graph._document import read_graph as read_graph
from meshwright.graph._document import write_graph as write_graph
from meshwright.graph._graph import Activation as Activation
from meshwright.graph._graph import Block as Block
from meshwright.graph._graph import Graph as Graph
from meshwright.graph._graph import MatrixShape as MatrixShape
from meshwright.graph._graph import Operation as Operation
from meshwright.graph._graph import OperationKind as OperationKind
from meshwright.graph._graph import OptimizerState as OptimizerState
from meshwright.graph._graph import Parameter as Parameter
from meshwright.graph._linear import Linear as Linear
from meshwright.graph._sections import in_sections as in_sections
from meshwright.graph._sections import is_in_sections as is_in_sections
from meshwright.graph._splits import ContextSplit as ContextSplit
from meshwright.graph._splits import Cut as Cut
from meshwright.graph._splits import ExpertSplit as ExpertSplit
from meshwright.graph._splits import Phase as Phase
from meshwright.graph._splits import SplitExchange as SplitExchange
from meshwright.graph._splits import SplitParameter as SplitParameter
from meshwright.graph._splits import Splits as Splits
from meshwright.graph._splits import TensorSplit as TensorSplit
from meshwright.graph._tokens import tokens_per_example as tokens_per_example
from meshwright.graph._transformer import Transformer as Transformer
