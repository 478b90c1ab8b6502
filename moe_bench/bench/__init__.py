"""The verb ``bench``: what a layer, a router's bookkeeping and the probe cost in time and memory.

timing.py   interleaved rounds, medians and quartiles (no torch)     floor.py    the experts without a router
cases.py    sizes, and what was typed (no torch)                     peers.py    layers of other packages
machine.py  device, precision, clock, memory                         layers.py   whole layers against the floor
results.py  what was measured, as JSON                               routing.py  bookkeeping alone
tables.py   the same for the terminal                                probe.py    the regressions of the probe
                                                                     cli.py      the command line
"""
