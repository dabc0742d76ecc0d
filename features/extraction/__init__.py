"""The pass: plan, decode, forward, append, commit."""
