"""What other projects are told or asked on behalf of safejax; each needs an extra."""
