"""Reading runs/: ``ls`` and the tables. Imports no torch, so that both answer at once."""
