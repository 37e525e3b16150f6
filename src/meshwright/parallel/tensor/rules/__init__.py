"""How can an operation be split? One small file per family of ATen operations.

In: an `Operation` (a node with its tensors' shapes) and the layout of one of its tensors. Out: the `Choice` in which
the workers of an axis do it together.
Reading order: `_rule` (letters of dims, as in `einsum`), `_matrix`, `_pointwise`, `_views`, `_rearranged`, `_pieces`,
`_reduction`, `_normalization`, `_attention`, `_convolution`, `_indexing`, `_rows`, `_loss`, `_table` (who has which
rule).
"""

from meshwright.parallel.tensor.rules._attention import RING as RING
from meshwright.parallel.tensor.rules._rule import Rule as Rule
from meshwright.parallel.tensor.rules._table import rule_of as rule_of
