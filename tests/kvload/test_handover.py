"""Events arrive in the order in which they were put, whether or not they woke anybody."""

from __future__ import annotations

import threading

from kvload.handover import Handover


def test_items_come_in_order_and_in_bounded_batches() -> None:
    items: Handover[int] = Handover()
    for number in range(5):
        items.leave(number)
    items.hand(5)
    assert [items.take(4), items.take(4)] == [[0, 1, 2, 3], [4, 5]]


def test_the_taker_sleeps_until_it_is_woken() -> None:
    items: Handover[int] = Handover()
    taken: list[int] = []

    def take() -> None:
        while not taken or taken[-1] != 1999:
            taken.extend(items.take(64))

    thread = threading.Thread(target=take)
    thread.start()
    for number in range(2000):
        (items.hand if number % 3 == 1 else items.leave)(number)  # 1999 is handed
    thread.join(60)
    assert taken == list(range(2000))


def test_stale_wakings_return_nothing_twice() -> None:
    items: Handover[int] = Handover()
    items.hand(1)
    items.hand(2)
    assert items.take(8) == [1, 2]
    threading.Timer(0.05, items.hand, [3]).start()
    assert items.take(8) == [3]
