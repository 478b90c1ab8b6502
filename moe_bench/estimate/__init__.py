"""The verb ``estimate``: what a run will take, before it takes it. speed.py measures and needs torch; the rest none."""
