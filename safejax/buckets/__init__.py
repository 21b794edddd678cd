"""Shape buckets: named dimensions padded to a few sizes, so that programs are few."""
