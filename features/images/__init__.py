"""The bytes of a file become upright RGB of the asked size, and its views."""
