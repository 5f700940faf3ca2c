"""Ideals: from whom a prompt could have had its blocks, and since when."""

from __future__ import annotations

from kvload.ideals import Namespace, RoundIdeals
from kvpipe.records import Block, Calibrated, Planned

HEAD, CONTEXT = Block("head", 8), Block("context", 1000)


def asking(index: int, question: str, stratum: str = "follower") -> Planned:
    return Planned(
        index=index,
        group="g",
        stratum=stratum,  # type: ignore[arg-type]
        max_tokens=4,
        prompt_tokens=1058,
        new_tokens=50,
        blocks=[HEAD, CONTEXT, Block(question, 50)],
    )


def ideals(
    namespace: Namespace | None = None,
    calibrated: Calibrated = "tokenize",
    reuse: bool = True,
    salt_in_prompt: bool = False,
    block_tokens: int | None = 16,
) -> RoundIdeals:
    return RoundIdeals(
        namespace or Namespace(),
        block_tokens=block_tokens,
        calibrated=calibrated,
        reuse=reuse,
        salt_in_prompt=salt_in_prompt,
    )


def test_the_first_has_no_donor_and_is_not_its_own() -> None:
    round_ = ideals()
    leader = asking(0, "a", "leader")
    round_.began(leader, 100)
    ideal = round_.of(leader, began_ns=100, sent_ns=110, first_token_ns=900, prompt_tokens=1058)
    assert (ideal.lo, ideal.hi, ideal.prior) == (0, 0, 0)


def test_a_finished_donor_counts_for_both_bounds() -> None:
    round_ = ideals()
    leader, follower = asking(0, "a", "leader"), asking(1, "b")
    round_.began(leader, 100)
    round_.ended(leader, 1000)
    round_.began(follower, 1100)
    ideal = round_.of(
        follower, began_ns=1100, sent_ns=1110, first_token_ns=1200, prompt_tokens=1058
    )
    assert (ideal.lo, ideal.hi) == (1008, 1008)  # floor to 16 of the 1,008 shared


def test_a_donor_in_flight_counts_only_above() -> None:
    round_ = ideals()
    leader, follower = asking(0, "a", "leader"), asking(1, "b")
    round_.began(leader, 100)
    round_.began(follower, 150)
    ideal = round_.of(follower, began_ns=150, sent_ns=160, first_token_ns=1200, prompt_tokens=1058)
    assert (ideal.lo, ideal.hi) == (0, 1008)


def test_a_donor_sent_after_the_first_token_gave_nothing() -> None:
    round_ = ideals()
    early, late = asking(0, "a", "leader"), asking(1, "b")
    round_.began(early, 100)
    round_.began(late, 2000)
    ideal = round_.of(early, began_ns=100, sent_ns=110, first_token_ns=900, prompt_tokens=1058)
    assert ideal.hi == 0


def test_an_earlier_round_of_the_namespace_gives_the_whole_prompt_but_its_last_token() -> None:
    namespace = Namespace()
    first = ideals(namespace)
    leader = asking(0, "a", "leader")
    first.began(leader, 100)
    namespace.close_round()
    ideal = ideals(namespace).of(
        leader, began_ns=5000, sent_ns=5010, first_token_ns=5100, prompt_tokens=1058
    )
    assert ideal.prior == 1057 // 16 * 16 == 1056
    fresh = ideals(Namespace()).of(
        leader, began_ns=5000, sent_ns=5010, first_token_ns=5100, prompt_tokens=1058
    )
    assert fresh.prior == 0


def test_a_salt_for_each_request_leaves_nothing_to_share() -> None:
    round_ = ideals(reuse=False)
    for index, name in enumerate("ab"):
        round_.began(asking(index, name), 100)
    ideal = round_.of(
        asking(1, "b"), began_ns=100, sent_ns=110, first_token_ns=900, prompt_tokens=1058
    )
    assert (ideal.lo, ideal.hi, ideal.prior) == (0, 0, 0)


def test_sentinels_neither_give_nor_get() -> None:
    round_ = ideals()
    sentinel = asking(0, "a", "sentinel")
    round_.began(sentinel, 100)
    round_.began(asking(1, "b"), 200)
    of_follower = round_.of(
        asking(1, "b"), began_ns=200, sent_ns=210, first_token_ns=900, prompt_tokens=1058
    )
    of_sentinel = round_.of(
        sentinel, began_ns=100, sent_ns=110, first_token_ns=900, prompt_tokens=1058
    )
    assert of_follower.hi == 0 and of_sentinel.hi == 0


def test_a_salt_at_the_head_is_shared_even_by_sentinels() -> None:
    """The template's 8 tokens and the salt's 12 are one block of 16 that all prompts begin with."""
    asked = {"began_ns": 100, "sent_ns": 110, "first_token_ns": 900, "prompt_tokens": 1058 + 12}
    sentinel = asking(0, "a", "sentinel")
    assert ideals(salt_in_prompt=True).of(sentinel, **asked).hi == 16
    assert ideals(salt_in_prompt=True, reuse=False).of(sentinel, **asked).hi == 0, "a salt each"
    assert ideals(salt_in_prompt=True, block_tokens=None).of(sentinel, **asked).hi is None


def test_without_a_block_size_nothing_is_claimed() -> None:
    ideal = ideals(block_tokens=None).of(
        asking(0, "a"), began_ns=0, sent_ns=1, first_token_ns=2, prompt_tokens=1058
    )
    assert (ideal.lo, ideal.hi, ideal.prior) == (None, None, None)
    assert ideal.new_tokens == 50


def test_estimated_lengths_are_scaled_to_what_the_server_counted_and_bounded_above() -> None:
    round_ = ideals(calibrated="none")
    leader, follower = asking(0, "a", "leader"), asking(1, "b")
    round_.began(leader, 100)
    round_.ended(leader, 1000)
    ideal = round_.of(
        follower, began_ns=1100, sent_ns=1110, first_token_ns=1200, prompt_tokens=2116
    )
    assert ideal.lo == 2016 and ideal.new_tokens == 100
    assert ideal.hi is not None and 2016 < ideal.hi <= 2115


def test_a_salt_in_the_prompt_makes_the_shared_part_longer() -> None:
    round_ = ideals(salt_in_prompt=True)
    leader, follower = asking(0, "a", "leader"), asking(1, "b")
    round_.began(leader, 100)
    round_.ended(leader, 1000)
    ideal = round_.of(
        follower, began_ns=1100, sent_ns=1110, first_token_ns=1200, prompt_tokens=1058 + 20
    )
    assert ideal.lo == (1008 + 20) // 16 * 16
