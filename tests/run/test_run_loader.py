"""Each worker loads its share of every global batch, in the order of the one-device program."""

import random

import pytest
import torch
import torch.distributed as dist
from run_jobs import strategy
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, IterableDataset

from meshwright.errors import UsageError
from meshwright.run._loader import can_share, first_batch, shared


class Numbers(Dataset):
    """Its own indices; remembers which were loaded."""

    def __init__(self, size):
        self.size = size
        self.loaded = []

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        self.loaded.append(index)
        return index


class Stream(IterableDataset):
    """Counts."""

    def __iter__(self):
        return iter(range(5))


def collate(items):
    return {"numbers": torch.tensor(items)}


def unseeded_batches():
    """Draws from a generator that nobody seeded alike."""
    while True:
        yield random.sample(range(100), 4)


def epochs(size, options, shares):
    """For each of two epochs, for each batch: the numbers, how many count, and the global number."""
    torch.manual_seed(7)
    loader = DataLoader(Numbers(size), collate_fn=collate, **options)
    seen = []

    def expect(_share, count, whole):
        seen.append((count, whole))

    plan = strategy(size, len(shares), shares=shares).batch
    batches = shared(loader, plan=plan, rank=dist.get_rank(), expect=expect)
    found = [[batch["numbers"].tolist() for batch in batches] for _ in range(2)]
    return found, seen, len(batches), torch.rand(1).item(), sorted(loader.dataset.loaded)


def one_device(size, options):
    torch.manual_seed(7)
    loader = DataLoader(Numbers(size), collate_fn=collate, **options)
    found = [[batch["numbers"].tolist() for batch in loader] for _ in range(2)]
    return found, torch.rand(1).item()


def joined(answers):
    """What the workers loaded, put together again."""
    whole = []
    for epoch in range(2):
        batches = []
        for number in range(len(answers[0][0][epoch])):
            place = epoch * len(answers[0][0][epoch]) + number
            batch = []
            for answer in answers:
                batch += answer[0][epoch][number][: answer[1][place][0]]
            assert len(batch) == answers[0][1][place][1]
            batches.append(batch)
        whole.append(batches)
    return whole


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({"batch_size": 4}, (1, 1)),
        ({"batch_size": 4, "shuffle": True}, (1, 1)),
        ({"batch_size": 5, "shuffle": True, "drop_last": True}, (2, 1)),
        ({"batch_size": 4, "shuffle": True, "num_workers": 1}, (1, 1)),
        ({"batch_sampler": BatchSampler(range(9), 2, drop_last=False)}, (1, 1)),
    ],
    ids=["in order", "shuffled", "unequal shares, last dropped", "loaded by processes", "own batch sampler"],
)
def test_shares_put_together_are_the_global_batches(workers, options, shares):
    answers = workers(2).run(epochs, 9, options, shares)
    expected, next_number = one_device(9, options)
    assert joined(answers) == expected
    assert [answer[3] for answer in answers] == [next_number] * 2
    assert answers[0][2] == len(expected[0])


def test_nothing_is_loaded_twice_but_a_stand_in(workers):
    first, second = workers(2).run(epochs, 9, {"batch_size": 4}, (1, 1))
    assert first[4] == sorted([0, 1, 4, 5, 8] * 2)
    assert second[4] == sorted([2, 3, 6, 7, 8] * 2)
    assert [count for count, _ in first[1][:3]] == [2, 2, 0]
    assert [count for count, _ in second[1][:3]] == [2, 2, 1]


def unseeded():
    random.seed(dist.get_rank())
    loader = DataLoader(Numbers(100), batch_sampler=unseeded_batches(), collate_fn=collate)
    batches = iter(shared(loader, plan=strategy(4).batch, rank=dist.get_rank(), expect=lambda *_: None))
    return [next(batches)["numbers"].tolist() for _ in range(12)]


def test_a_sampler_without_a_common_seed_is_asked_on_one_worker(workers):
    first, second = workers(2).run(unseeded)
    random.seed(0)
    expected = unseeded_batches()
    assert [a + b for a, b in zip(first, second, strict=True)] == [next(expected) for _ in range(12)]


def test_only_loaders_that_make_batches_of_items_are_rebuilt():
    assert can_share(DataLoader(Numbers(3), batch_size=2))
    assert not can_share(DataLoader(Numbers(3), batch_size=None))
    assert not can_share(DataLoader(Stream(), batch_size=2))
    assert not can_share([1, 2])


def test_a_loader_that_splits_already_is_refused():
    sampler = DistributedSampler(Numbers(8), num_replicas=2, rank=0)
    with pytest.raises(UsageError, match="a DistributedSampler for 2 processes"):
        can_share(DataLoader(Numbers(8), sampler=sampler))


def test_looking_at_the_first_batch_changes_no_random_number():
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(Numbers(9), batch_size=3, shuffle=True, generator=generator)
    torch.manual_seed(5)
    seen = first_batch(loader)
    number = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), number)
    assert torch.equal(next(iter(loader)), seen)
