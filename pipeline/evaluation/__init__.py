"""How good a head is: metrics, intervals, paired tests, curves."""
