"""The verb ``evaluate``: a trained run under other capacities, groups and orders than those it was trained with.

settings.py  which settings there are, and why one cannot be (no torch)     table.py  the same for the terminal
measure.py   every picture's answer under every setting                     cli.py    the command line
"""
