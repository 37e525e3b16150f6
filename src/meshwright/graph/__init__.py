"""What does a step do? Operations, parameters, saved activations and their lifetimes, for any batch size.

In: model, optimizer, loss, one batch. Out: a `Graph`.
Reading order: `_graph` (the data), `_transformer` (a model by its dimensions), `_document` (the data as a file),
`capture` (the only part that loads torch; its docstring names the order of the files that it is made of).
"""

from meshwright.graph._document import read_graph as read_graph
from meshwright.graph._document import write_graph as write_graph
from meshwright.graph._graph import Activation as Activation
from meshwright.graph._graph import Block as Block
from meshwright.graph._graph import Graph as Graph
from meshwright.graph._graph import Linear as Linear
from meshwright.graph._graph import MatrixShape as MatrixShape
from meshwright.graph._graph import Operation as Operation
from meshwright.graph._graph import OperationKind as OperationKind
from meshwright.graph._graph import OptimizerState as OptimizerState
from meshwright.graph._graph import Parameter as Parameter
from meshwright.graph._graph import Phase as Phase
from meshwright.graph._transformer import Transformer as Transformer
