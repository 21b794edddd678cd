"""The signed compile cache: compiled programs that come back from disk."""
