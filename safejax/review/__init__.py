"""What a traced program contains and would cost, and whether that is admitted."""
