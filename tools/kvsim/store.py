"""A Mooncake master's memory: keys, leases, segments, eviction. Time is given to it."""

from collections import Counter
from dataclasses import dataclass
from math import ceil
from zlib import crc32

from kvsim.options import StoreOptions


@dataclass(slots=True)
class Object:
    """One stored block."""

    size: int
    segment: str
    lease_until_s: float = 0.0
    """Until then an unforced removal and an eviction pass it by."""


class Store:
    """Objects live in the segments that clients mount, and go with them."""

    def __init__(self, options: StoreOptions) -> None:
        self.options = options
        self.segments: dict[str, int] = {}
        self.objects: dict[str, Object] = {}
        self.allocated = 0
        self.counts: dict[str, int] = {}
        """Counters by the name under which the master exposes them."""
        self.sizes: Counter[int] = Counter()
        """How many objects of each size were ever put."""

    def count(self, name: str, amount: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + amount

    @property
    def capacity(self) -> int:
        """Bytes; nothing without a mounted segment, whatever was asked for."""
        if not self.segments:
            return 0
        return self.options.capacity_bytes or sum(self.segments.values())

    def used_by(self, segment: str) -> int:
        return sum(o.size for o in self.objects.values() if o.segment == segment)

    def capacity_of(self, segment: str) -> int:
        """A fixed capacity is divided evenly."""
        if self.options.capacity_bytes:
            return self.options.capacity_bytes // len(self.segments)
        return self.segments[segment]

    # Segments

    def mount(self, segment: str, size: int) -> None:
        self.segments[segment] = size
        self.count("master_mount_segment_requests_total")

    def unmount(self, segment: str) -> None:
        """The objects of a segment go with it."""
        self.segments.pop(segment, None)
        self.count("master_unmount_segment_requests_total")
        for key in [key for key, o in self.objects.items() if o.segment == segment]:
            self._remove(key)

    # Objects

    def exist(self, keys: list[str], now: float) -> list[bool]:
        """Asking for a key gives it a lease."""
        self.count("master_batch_exist_key_requests_total")
        self.count("master_batch_exist_key_items_total", len(keys))
        return [self._lease(key, now) is not None for key in keys]

    def get(self, keys: list[str], now: float) -> int:
        """How many of the keys are there; those get a lease."""
        found = [o for key in keys if (o := self._lease(key, now)) is not None]
        self.count("master_batch_get_replica_list_requests_total")
        self.count("master_batch_get_replica_list_items_total", len(keys))
        self.count("mem_cache_hit_nums_", len(found))
        self.count("mem_cache_hit_bytes_total", sum(o.size for o in found))
        self.count("valid_get_nums_", len(found))
        self.count("total_get_nums_", len(keys))
        failed = len(keys) - len(found)
        if failed:
            self.count("master_batch_get_replica_list_failed_items_total", failed)
            kind = "partial_successes" if found else "failures"
            self.count(f"master_batch_get_replica_list_{kind}_total")
        return len(found)

    def describe(self, key: str, now: float) -> Object | None:
        """One key, as an administrator asks; it gets a lease too."""
        found = self._lease(key, now)
        self.count("master_get_replica_list_requests_total")
        self.count("total_get_nums_")
        if found is None:
            self.count("master_get_replica_list_failures_total")
            return None
        self.count("valid_get_nums_")
        self.count("mem_cache_hit_nums_")
        self.count("mem_cache_hit_bytes_total", found.size)
        return found

    def put(self, keys: list[str], size: int, now: float) -> int:
        """How many keys found no room. A key that is there stays as it is."""
        failed = 0
        for key in keys:
            if key not in self.objects and not self._add(key, size, now):
                failed += 1
        self.count("master_batch_put_start_requests_total")
        self.count("master_batch_put_start_items_total", len(keys))
        if failed:
            self.count("master_put_start_alloc_failures_total", failed)
            self.count("master_batch_put_start_failed_items_total", failed)
            kind = "failures" if failed == len(keys) else "partial_successes"
            self.count(f"master_batch_put_start_{kind}_total")
        if failed < len(keys):
            self.count("master_batch_put_end_requests_total")
            self.count("master_batch_put_end_items_total", len(keys) - failed)
        if self.allocated > self.options.watermark * self.capacity:
            self.evict(now)
        return failed

    def remove_all(self, *, force: bool, now: float) -> int:
        """How many keys went. Without force, a key under lease silently stays."""
        self.count("master_remove_all_requests_total")
        going = [key for key, o in self.objects.items() if force or o.lease_until_s <= now]
        for key in going:
            self._remove(key)
        return len(going)

    def evict(self, now: float) -> None:
        """A share of all objects, as much more as the watermark is exceeded by: those whose lease
        ended first, leased ones never (`BatchEvict` of Mooncake's master)."""
        self.count("master_attempted_evictions_total")
        options = self.options
        above = self.allocated / self.capacity - options.watermark
        share = max(options.eviction, above + options.eviction)
        free = [(o.lease_until_s, key) for key, o in self.objects.items() if o.lease_until_s <= now]
        free.sort(key=lambda item: item[0])
        evicted = [key for _, key in free[: ceil(len(self.objects) * share)]]
        for key in evicted:
            self.count("master_evicted_size_bytes", self.objects[key].size)
            self._remove(key)
        if evicted:
            self.count("master_evicted_key_count", len(evicted))
            self.count("master_successful_evictions_total")

    def _add(self, key: str, size: int, now: float) -> bool:
        if self.allocated + size > self.capacity:
            self.evict(now)
        if self.allocated + size > self.capacity:
            return False
        names = sorted(self.segments)
        segment = names[crc32(key.encode()) % len(names)]
        self.objects[key] = Object(size, segment, lease_until_s=now)
        self.allocated += size
        self.sizes[size] += 1
        return True

    def _lease(self, key: str, now: float) -> Object | None:
        found = self.objects.get(key)
        if found is not None:
            found.lease_until_s = now + self.options.lease_s
        return found

    def _remove(self, key: str) -> None:
        self.allocated -= self.objects.pop(key).size
