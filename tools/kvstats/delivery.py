"""How the bytes came: answers that were buffered on the way, and two kinds of stamps in a round."""

from __future__ import annotations

from kvpipe.records import Finding
from kvstats.findings import finding
from kvstats.tally import Delivery

# A stream has about one read a token; speculative decoding sends up to five tokens an event. More
# than eight tokens a read were held back by something (a compressing or buffering hop).
BUFFERED_TOKENS_PER_READ = 8.0
BUFFERED_SHARE = 0.5  # of the answers long enough to tell


def stream_buffered(delivery: Delivery) -> Finding | None:
    """Many tokens in few reads: ITL and TPOT, perhaps TTFT, are the buffer's; warning.

    More than 8 tokens a read in half of the answers of 16 tokens and more.
    """
    if not delivery.long_answers or delivery.buffered < BUFFERED_SHARE * delivery.long_answers:
        return None
    return finding(
        "stream_buffered",
        "warning",
        f"{delivery.buffered:,} of {delivery.long_answers:,} longer answers came with more than "
        f"{BUFFERED_TOKENS_PER_READ:.0f} tokens a read ({delivery.tokens:,} tokens in "
        f"{delivery.reads:,} reads): something on the way buffers the stream, "
        "and TTFT and gaps are its own",
        answers=delivery.buffered,
        of=delivery.long_answers,
        tokens=delivery.tokens,
        reads=delivery.reads,
    )


def stamps_mixed(delivery: Delivery) -> Finding | None:
    """Kernel and user stamps in one round; warning."""
    kernel, user = delivery.kernel_stamps, delivery.user_stamps
    if not kernel or not user:
        return None
    return finding(
        "stamps_mixed",
        "warning",
        f"{kernel:,} requests have kernel stamps and {user:,} user stamps: "
        "their times are not comparable to the microsecond",
        kernel=kernel,
        user=user,
    )
