"""How a model is trained: objective, optimiser, Lightning module, validation, checkpoints, stopping.

objective.py   targets, mixup, loss, prec@1            validation.py  the whole validation set, every picture once
optim.py       decay groups, schedules                 store.py       checkpoints on disk (no Lightning)
module.py      LitViT: one step                        checkpoint.py  when they are written
randomness.py  what is random in a step                stop.py        Ctrl-C and SIGTERM
place.py       devices, precision, pieces of a batch   trainer.py     Lightning's trainer
watch.py       which steps may change the weights      background.py  writing while training goes on
trained.py     the settings and the model of a run folder

On several devices:

group.py       the ranks meet and agree                parallel.py    DDP and FSDP2 for Lightning
layout.py      whole tensors from parts, and back      sharding.py    FSDP2 of a vision transformer
gradients.py   norm and clipping of parts              expert_parallel.py  experts dealt out to ranks
whereabouts.py how far a rank is                       fault.py       faults on purpose, for tests

Import from the modules: some need no Lightning, and ``checkpoint.load_weights`` should not wait for the others.
"""
