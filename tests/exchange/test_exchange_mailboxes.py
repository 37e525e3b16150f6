"""Messages from one process to another through shared memory."""

import random
from typing import Any

import torch
import torch.distributed as dist

from meshwright.exchange import Mailboxes
from meshwright.exchange.shared_memory._mailboxes import _size_class

LENGTHS = (1, 17, 5000, 70_000)


def message(sender: int, receiver: int, number: int, turn: int) -> torch.Tensor:
    """Bytes that no other message has."""
    maker = torch.Generator().manual_seed(((sender * 7 + receiver) * 1000 + number) * 10 + turn)
    return torch.randint(256, (LENGTHS[number % len(LENGTHS)],), dtype=torch.uint8, generator=maker)


def crossed(count: int, turns: int) -> tuple[bool, list[int]]:
    """Everybody sends to everybody before anything is taken, and takes in an order of its own; numbers come again."""
    rank, size = dist.get_rank(), dist.get_world_size()
    peers = [peer for peer in range(size) if peer != rank]
    boxes, right = Mailboxes(dist.group.WORLD), True
    order = random.Random(rank)
    for turn in range(turns):
        for number in range(count):
            for peer in peers:
                boxes.send(message(rank, peer, number, turn), to=peer, number=number)
        wanted = [(peer, number) for peer in peers for number in range(count)]
        order.shuffle(wanted)
        for peer, number in wanted:
            whole = message(peer, rank, number, turn)
            right = right and torch.equal(boxes.receive(len(whole), source=peer, number=number), whole)
        boxes.give_back()
        dist.barrier()
    slots = [boxes.num_slots(peer) for peer in peers]
    boxes.close()
    return right, slots


def ahead() -> list[float]:
    """Rank 0 sends the same number twice before rank 1 takes any."""
    boxes = Mailboxes(dist.group.WORLD)
    found = []
    if dist.get_rank() == 0:
        for value in (3, 4):
            boxes.send(torch.full((8,), value, dtype=torch.uint8), to=1, number=5)
    else:
        for _ in range(2):
            found.append(boxes.receive(8, source=0, number=5).float().mean().item())
    dist.barrier()
    boxes.close()
    return found


def held() -> tuple[list[int], int]:
    """Rank 1 keeps what it is sent, or a part of it, while more comes; then it lets go."""
    boxes = Mailboxes(dist.group.WORLD)
    found: list[int] = []
    kept: list[torch.Tensor] = []
    for number in range(4):
        if dist.get_rank() == 0:
            boxes.send(torch.full((8,), number, dtype=torch.uint8), to=1, number=number)
        else:
            kept.append(boxes.receive(8, source=0, number=number)[4:])
            found = [int(part.sum()) // 4 for part in kept]
            if number == 2:
                kept.clear()
            boxes.give_back()
        dist.barrier()
    slots = boxes.num_slots(1)
    boxes.close()
    return found, slots


def test_what_is_received_stays_until_nothing_uses_its_memory(workers: Any) -> None:
    (_, slots), (found, _) = workers(2).run(held)
    assert found == [3]
    assert slots == 3


def test_messages_are_found_by_number_and_their_memory_is_used_again(workers: Any) -> None:
    count, turns = 12, 3
    for right, slots in workers(3).run(crossed, count, turns):
        assert right
        # Fewer where a message was taken before the last one of its turn was written.
        assert all(1 <= found <= count for found in slots)


def test_of_two_messages_with_one_number_the_first_comes_first(workers: Any) -> None:
    assert workers(2).run(ahead) == [[], [3.0, 4.0]]


def test_sizes_of_slots_hold_what_is_asked_for_with_at_most_a_half_more() -> None:
    assert [_size_class(size) for size in (1, 4096, 4097, 6144, 6145, 8192)] == [4096, 4096, 6144, 6144, 8192, 8192]
    for size in range(4096, 100_000, 777):
        assert size <= _size_class(size) <= 1.5 * size
