"""The pass over the images: plan, decode, forward, append, commit."""
