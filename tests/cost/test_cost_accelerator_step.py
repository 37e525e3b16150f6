"""The step's timeline on accelerators, against values computed by hand, and the fitted calibration's sanity."""

from dataclasses import replace

import pytest
from accelerator_builders import CALIBRATION, MACHINE, MODEL, SETUP, with_habits

from meshwright.cost.accelerator import (
    Collectives,
    Messages,
    Stalls,
    calibration,
    layers_per_worker,
    machine_of,
    stalls,
    step_time,
)
from meshwright.errors import HardwareError
from meshwright.graph import Transformer
from meshwright.hardware import Cluster, Device, Host, parse_cluster

ALONE = replace(SETUP, dp=1)


def test_items_add_up() -> None:
    """The step is the sum of its items, inside its interval."""
    time = step_time(SETUP, MACHINE, fitted=CALIBRATION)
    items = (time.computing, time.waiting, time.sending, time.reduction, time.optimizer, time.overhead, time.stall)
    assert time.step == pytest.approx(sum(items))
    assert time.low == pytest.approx(0.9 * time.step)
    assert time.high == pytest.approx(1.2 * time.step)


def test_devices_that_nothing_was_fitted_on_have_wider_intervals() -> None:
    """By half here, to both sides; the prediction is the same."""
    known, other = (step_time(SETUP, replace(MACHINE, device=name), fitted=CALIBRATION) for name in ("round", "new"))
    assert other.step == known.step
    assert (other.low, other.high) == pytest.approx((known.low / 1.5, known.high * 1.5))


def test_micro_batches_follow_one_another() -> None:
    """Without anything else, twice the micro-batches take twice the time."""
    twice = replace(ALONE, micro_batches=16)
    assert step_time(twice, MACHINE, fitted=CALIBRATION).step == pytest.approx(
        2 * step_time(ALONE, MACHINE, fitted=CALIBRATION).step
    )


def test_the_host_bounds_small_layers() -> None:
    """A host that takes 1 s per layer makes 8 layers and 8 micro-batches take 64 s."""
    assert step_time(ALONE, MACHINE, fitted=with_habits(host=1.0)).step == pytest.approx(64, rel=1e-2)


def test_timed_exchanges_make_host_and_device_take_turns() -> None:
    """8 layers and micro-batches of a host that takes 1 s each add 64 s to what the device takes, not to one device."""
    split = replace(ALONE, tp=2)
    device = step_time(split, MACHINE, fitted=CALIBRATION).computing
    timed = step_time(replace(split, timed=True), MACHINE, fitted=with_habits(host=1.0))
    assert timed.computing == pytest.approx(64 + device)
    whole = step_time(replace(ALONE, timed=True), MACHINE, fitted=with_habits(host=1.0))
    assert whole.computing == step_time(ALONE, MACHINE, fitted=with_habits(host=1.0)).computing


def test_a_pipeline_fills_and_empties() -> None:
    """4 stages of 2 host-bound layers: 8 micro-batches of 2 s and 3 stages of filling, 6 s; interleaved twice, 3 s."""
    setup = replace(ALONE, pp=4)
    fitted = with_habits(host=1.0, send=1e-12)
    time = step_time(setup, replace(MACHINE, num_devices=4), fitted=fitted)
    assert time.computing == pytest.approx(16, rel=1e-2)
    assert time.waiting == pytest.approx(6, rel=1e-2)
    halved = step_time(replace(setup, stages_per_worker=2), replace(MACHINE, num_devices=4), fitted=fitted)
    assert halved.waiting == pytest.approx(3, rel=1e-2)


def test_gradients_hide_behind_the_last_backward() -> None:
    """What fits behind it costs nothing; what interference exposes is a share of all of it."""
    whole = step_time(SETUP, MACHINE, fitted=CALIBRATION).reduction
    assert whole > 0
    assert step_time(SETUP, MACHINE, fitted=with_habits(hidden_share=1e9)).reduction == 0.0
    exposed = with_habits(hidden_share=1e9, reduction_exposed=0.25)
    assert step_time(SETUP, MACHINE, fitted=exposed).reduction == pytest.approx(whole / 4)


def test_sums_after_the_backward_are_waited_for_whole() -> None:
    """A sharded optimizer's gradients, summed whole: as 8 workers' all-reduce of 4 B an element, then 2 B gathered."""
    setup, exposing = replace(SETUP, sharding="optimizer"), with_habits(hidden_share=1e9, sharded_sums="whole")
    whole = step_time(SETUP, MACHINE, fitted=CALIBRATION).reduction
    after = step_time(setup, MACHINE, fitted=exposing).reduction
    assert after == pytest.approx(whole * (4 + 1) / 4, rel=1e-2)
    assert step_time(setup, MACHINE, fitted=with_habits(hidden_share=1e9)).reduction == pytest.approx(
        whole / 4, rel=0.01
    )


def test_gradients_hide_behind_nothing_where_tensor_collectives_take_the_cards() -> None:
    """Groups of 16 over hosts of 8 have no window; groups of 8 have."""
    fitted = with_habits(hidden_share=1e9)
    inside, across = (replace(SETUP, tp=tp, dp=64 // tp) for tp in (8, 16))
    assert step_time(inside, MACHINE, fitted=fitted).reduction == 0.0
    assert step_time(across, MACHINE, fitted=fitted).reduction > 0.0


def test_stages_take_longer_while_messages_go_both_ways_between_hosts() -> None:
    """Of 8 micro-batches on 2 stages 7: 4 layers of 2 s for 2 tensor workers, and 0.4 s by the square of 2."""
    setup, where = replace(ALONE, pp=2, tp=2), replace(MACHINE, num_devices=16)
    bare = step_time(setup, where, fitted=with_habits(host=1.0, send=1e-12))
    slowed = with_habits(host=1.0, send=1e-12, pipeline_host=1.0, pipeline_turn=0.1)
    time = step_time(setup, where, fitted=slowed)
    assert time.computing - bare.computing == pytest.approx(7 * (4 * 2 + 0.4), rel=1e-6)
    assert time.waiting == bare.waiting
    assert step_time(replace(setup, tp=1), where, fitted=slowed).computing < time.computing / 2


def test_accumulating_gradients_takes_its_time_on_every_stage() -> None:
    """1 TB/s and 1,000 B an element of the first of two stages: 4 layers and the embedding, for each micro-batch."""
    setup = replace(ALONE, pp=2)
    bare, added = (
        step_time(setup, replace(MACHINE, num_devices=2), fitted=with_habits(accumulation_traffic=size))
        for size in (0.0, 1e3)
    )
    elements = 4 * setup.layer_parameters + MODEL.vocab * MODEL.hidden
    assert added.computing - bare.computing == pytest.approx(8 * elements * 1e-9)


def test_sharded_parameters_are_gathered_beside_computing() -> None:
    """On a fast link the gathering hides; over a slow network it is what a layer takes."""
    setup = replace(SETUP, sharding="parameters")
    hidden = step_time(setup, replace(MACHINE, link=1e15), fitted=CALIBRATION).computing
    assert hidden == pytest.approx(step_time(SETUP, MACHINE, fitted=CALIBRATION).computing)
    slow = replace(MACHINE, network=1e6, domain=1)
    exchanged = (2 * 2 + 4) * setup.layer_parameters * 7 / 8 / 1e6 * MODEL.layers * setup.micro_batches
    assert step_time(setup, slow, fitted=CALIBRATION).computing == pytest.approx(exchanged, rel=0.01)


def test_full_recomputation_does_the_forward_again() -> None:
    """A third more, as far as layers go."""
    again = step_time(replace(ALONE, recomputation="full"), MACHINE, fitted=CALIBRATION).step
    assert 1.2 < again / step_time(ALONE, MACHINE, fitted=CALIBRATION).step < 1.34


def test_stated_stages_and_their_recomputation_are_taken() -> None:
    """Even stages that all do their forward again take what full recomputation does; the longest one sets the pace."""
    piped = replace(ALONE, pp=2, micro_batches=64)
    full = step_time(replace(piped, recomputation="full"), MACHINE, fitted=CALIBRATION)
    again = replace(piped, layers=(4.0, 4.0), computed_again=(1.0, 1.0))
    assert step_time(again, MACHINE, fitted=CALIBRATION).step == pytest.approx(full.step)
    even, uneven = (
        step_time(replace(piped, layers=layers), MACHINE, fitted=CALIBRATION).computing for layers in ((4, 4), (2, 6))
    )
    none = step_time(replace(piped, layers=(0, 0)), MACHINE, fitted=CALIBRATION).computing
    assert uneven > 1.2 * even > even > none


def test_gradients_travel_in_the_bytes_that_are_stated() -> None:
    """2 for the 4 that are the habit: half of the transfer's time."""
    half, whole = (
        step_time(replace(SETUP, gradient_bytes=size), MACHINE, fitted=CALIBRATION).reduction for size in (2, 0)
    )
    assert half == pytest.approx(whole / 2, rel=0.01)


def test_stalls_count_messages() -> None:
    """On 8 hosts: 4 messages for each of 8 micro-batches, and 2 for each of 2 stages in between: 36 s at 1 s each."""
    fitted = with_habits(stall=1.0, stalls=Stalls(hosts=8))
    assert step_time(replace(ALONE, pp=4), MACHINE, fitted=fitted).stall == 36.0
    assert step_time(replace(ALONE, pp=2), MACHINE, fitted=fitted).stall == 16.0
    assert step_time(replace(ALONE, pp=4), replace(MACHINE, num_devices=32), fitted=fitted).stall == 0.0


def test_a_run_that_may_stall_says_so_in_its_interval() -> None:
    """With 2 % per host, 8 hosts stall in 15 % of runs: the upper end has the stall, the prediction has not."""
    time = step_time(replace(ALONE, pp=4), MACHINE, fitted=with_habits(stall=1.0, stall_share_per_host=0.02))
    assert time.stall == 0.0
    assert time.high == pytest.approx((time.step + 36) * 1.2)


def test_layers_are_shared_out_evenly() -> None:
    """The first workers take what is left over; the output is on the last."""
    assert layers_per_worker(MODEL, 3, "other") == ((3, 3, 2), 2)


def test_nanotron_ends_a_stage_once_its_share_is_reached() -> None:
    """16 layers of 67.1 M and an output of 268 M: shares of exactly 5 layers; a stage ends with the fifth.

    Of 8 stages the seventh ends the layers, and the output layer is alone on the eighth.
    """
    model = Transformer(layers=16, hidden=2048, heads=32, kv_heads=32, ffn=8192, vocab=131072, sequence=4096)
    assert layers_per_worker(model, 4, "nanotron") == ((5, 5, 5, 1), 3)
    assert layers_per_worker(model, 2, "nanotron") == ((10, 6), 1)
    assert layers_per_worker(model, 8, "nanotron") == ((3, 2, 3, 2, 3, 2, 1, 0), 7)


def test_more_tensor_workers_never_compute_longer() -> None:
    """Inside a host of H100, with the package's own calibration."""
    where = machine_of(parse_cluster("h100:8x1"))
    times = [step_time(replace(ALONE, tp=tp, micro_batch=16), where).computing for tp in (1, 2, 4)]
    assert times == sorted(times, reverse=True)


def test_the_packages_calibration_is_physical() -> None:
    """Shares of peaks lie between 0.1 and 1.1; a device's of a rate that is itself expected, so up to 1.5."""
    fitted = calibration()
    shares = (fitted.kernels.half, fitted.kernels.float8, fitted.kernels.memory, fitted.kernels.flash,
              fitted.network.link, fitted.network.network)  # fmt: skip
    assert all(0.1 < share < 1.1 for share in shares)
    assert all(0.2 < share < 1.5 for share in fitted.devices.values())
    assert all(habits.low < 1 < habits.high for habits in fitted.frameworks.values())


def test_a_cluster_without_a_network_is_refused() -> None:
    """Two hosts and no link between them."""
    device = Device(kind="cuda", name="x", memory=1, source="test")
    with pytest.raises(HardwareError, match="no link between its 2 hosts"):
        machine_of(Cluster(name="two", hosts=(Host(name="a", count=2, device=device, devices=8),)))


def test_a_host_whose_devices_nothing_joins_is_refused() -> None:
    """One host of 8 devices, no link."""
    device = Device(kind="cuda", name="x", memory=1, source="test")
    with pytest.raises(HardwareError, match="no link between the 8 devices of a host"):
        machine_of(Cluster(name="one", hosts=(Host(name="a", count=1, device=device, devices=8),)))


def test_hosts_of_one_device_exchange_at_what_their_network_card_reaches() -> None:
    """No link inside of hosts is needed, or limits: a gather of 1 GB in halves, without the latency."""
    whole = parse_cluster("h100:1x2")
    bare = replace(whole, links=tuple(link for link in whole.links if link.tier == "network"))
    network = calibration().network
    found = Collectives(machine=machine_of(bare), shares=network)
    card = found.machine.network * network.network
    moving = found.gather(2, 1, 1e9) - found.gather(2, 1, 0.0)
    assert moving == pytest.approx(0.5e9 / card)


def test_a_device_without_rates_is_refused() -> None:
    """Nothing can be said of a device whose matrix rate is not known."""
    device = Device(kind="cuda", name="mystery", memory=1, source="test")
    with pytest.raises(HardwareError, match="mystery: no matrix rate"):
        machine_of(Cluster(name="one", hosts=(Host(name="a", device=device),)))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, False),
        ({"num_hosts": 64, "pp": 1}, True),
        ({"num_hosts": 32, "ranks": 32}, True),
        ({"num_hosts": 32, "ranks": 128}, False),
        ({"num_hosts": 32, "examples": 2.0}, True),
        ({"num_hosts": 32, "examples": 2.0, "parameters": 1e9}, False),
        ({"num_hosts": 8, "sharded": False}, True),
        ({"num_hosts": 4, "sharded": False}, False),
        ({"num_hosts": 8, "sharded": False, "micro_batches": 8}, False),
        ({"num_hosts": 8, "sharded": False, "pp": 1}, False),
        ({"num_hosts": 1, "fullness": 0.95}, True),
        ({"num_hosts": 16, "tp": 32}, True),
        ({"num_hosts": 16, "tp": 32, "pp": 1}, False),
    ],
)
def test_stalls_are_foretold(changes: dict[str, float], expected: bool) -> None:
    """Every rule at its edge."""
    when = calibration().frameworks["nanotron"].stalls
    run = Messages(
        tp=4, pp=2, ranks=4, sharded=True, examples=1.0, micro_batches=64, parameters=8e9, domain=8, num_hosts=4
    )
    assert stalls(when, replace(run, **changes)) is expected  # type: ignore[arg-type]
