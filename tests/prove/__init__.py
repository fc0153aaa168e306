"""The fault matrix: what can go wrong, what must then happen, and the tests that inject it."""
