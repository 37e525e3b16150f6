"""How many tokens an example has, as far as the graph shows it."""

from meshwright.graph._graph import Graph


def tokens_per_example(graph: Graph) -> int:
    """Positions that attention mixes; 1 where an example is no sequence."""
    lengths = [
        item.matrix.rows.fixed
        for item in graph.operations
        if item.phase == "forward" and item.matrix is not None and item.matrix.batch.per_example
    ]
    return max(1, round(max(lengths, default=1)))
