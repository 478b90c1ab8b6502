"""How a model is trained: objective, optimiser, Lightning module, validation, checkpoints, stopping.

objective.py   targets, mixup, loss, prec@1            validation.py  the whole validation set, every picture once
optim.py       decay groups, schedules                 store.py       checkpoints on disk (no Lightning)
module.py      LitViT: one step                        checkpoint.py  when they are written
strategy.py    device, precision, batch, the trainer   stop.py        Ctrl-C and SIGTERM

Import from the modules: some need no Lightning, and ``checkpoint.load_weights`` should not wait for the others.
"""
