"""Trees from checkpoints of other formats; none of them is verified."""
