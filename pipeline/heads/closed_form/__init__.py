"""Heads whose optimum is a formula, ridge and LDA: for every penalty and every fold from one rotation of the rows."""
