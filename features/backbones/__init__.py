"""Name to a frozen base with checked weights."""
