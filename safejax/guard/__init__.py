"""Which APIs may run while untrusted input is traced, and who is watching."""
