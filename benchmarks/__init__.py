"""What safejax costs, as ratios to what plain JAX does with the same call."""
