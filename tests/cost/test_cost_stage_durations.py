"""The stages that a prediction shows take together the time that the pipeline was priced with."""

import random
from itertools import islice

import pytest

import search_builders as build
from meshwright.cost import bubble, orders, simulated
from meshwright.cost.hybrid import HybridPricer
from meshwright.plan import Goal, Pins


@pytest.mark.parametrize("seed", range(4))
def test_the_drawn_time_line_is_the_priced_one(seed: int) -> None:
    """Before gradients and optimizer; micro-batches few enough that none of them is extrapolated."""
    rng = random.Random(seed)
    layouts = ()
    while not layouts:  # many a random cluster holds none of them
        pricer = HybridPricer(build.random_graph(rng), build.random_cluster(rng))
        layouts = tuple(islice(build.everything(pricer, Goal(pins=Pins(pipeline=2, tensor=1)), subsets=False), 20))
    for layout, price in layouts:
        stages = pricer.predict(layout).stages
        assert len(stages) == len(layout.bounds)
        lists = orders(layout.schedule, num_workers=2, num_stages=len(stages), num_micro_batches=layout.micro_batches)
        durations = {}
        for number, stage in enumerate(stages):
            durations |= {("forward", number): stage.forward, ("backward", number): stage.backward}
            durations |= {(half, number): stage.backward / 2 for half in ("input", "weight")}
        events = simulated(lists, durations, transfers=[stage.transfer for stage in stages[1:]])
        span = max(event.end for event in events)
        update = price.time.optimizer + price.time.overhead
        assert span <= price.time.step * (1 + 1e-9)
        assert span >= (price.time.step - update - price.time.communication) * (1 - 1e-9)
        assert 0 <= bubble(events) < 1
