"""kvclear: isolates a cache and proves it."""
