"""What the exchange benchmark makes of its measurements."""

from exchange import Learnt, description, steps_of
from exchange_ways import CHOICES, strategy_of


def test_steps_to_a_loss_lie_between_two_evaluations():
    """From 3.0 at 10 steps to 2.0 at 20: 2.25 after 17.5; 1.0 never."""
    learnt = Learnt(way="x", hosts="2 equal", losses=((10, 3.0), (20, 2.0)))
    assert learnt.steps_to(2.25) == 17.5
    assert learnt.steps_to(3.5) == 10
    assert learnt.steps_to(1.0) == float("inf")
    assert learnt.at(15) == 2.0


def test_hosts_share_two_cores_and_one_has_half_of_its_part():
    assert [host.cpus for host in description(2, half=False).hosts] == [1.0, 1.0]
    assert [host.cpus for host in description(4, half=True).hosts] == [0.5, 0.5, 0.5, 0.25]


def test_every_way_is_a_strategy_of_all_hosts():
    for way in CHOICES:
        strategy = strategy_of(way, shares=(9, 7), batch=16, bucket_size=2**20)
        assert strategy.num_workers == strategy.mesh.num_shares == 2
        assert strategy.batch.shares == (9, 7)


def test_local_ways_are_timed_over_whole_intervals():
    assert steps_of("local_int8", "100Mbit/s", learning=60) == CHOICES["local_int8"]["updates"].interval
    assert steps_of("ddp", "unshaped", learning=60) == 60
