"""What a trained head is on disk, and read back."""
