"""Who may compile, how much, and what it has cost."""
