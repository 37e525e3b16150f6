"""How many layers each pipeline worker has."""

from meshwright.graph import Transformer


def layers_per_worker(model: Transformer, workers: int, framework: str) -> tuple[tuple[int, ...], int]:
    """Layers of every worker of a pipeline, and which worker has the output layer.

    Evenly, the first ones taking what is left over; nanotron instead goes through embedding, layers and output and
    ends a stage as soon as the matrices passed reach its part of all; the output layer has a stage of its own where one
    is left.
    """
    if framework != "nanotron" or workers == 1:
        each, left = divmod(model.layers, workers)
        return tuple(each + (worker < left) for worker in range(workers)), workers - 1
    layer = 4 * model.heads * model.head_width * model.hidden + 3 * model.ffn * model.hidden
    total = model.layers * layer + model.vocab * model.hidden
    counts = [0] * workers
    worker, passed = 0, 0
    for _ in range(model.layers):
        passed += layer
        counts[worker] += 1
        if worker < workers - 1 and passed * workers >= total * (worker + 1):
            worker += 1
    return tuple(counts), min(worker + 1, workers - 1) if counts[worker] else worker
