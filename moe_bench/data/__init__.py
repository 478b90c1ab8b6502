"""Labelled pictures from shards, by random access: where the shards are, what is in them, which picture comes when.

sources.py   what a user types → the list of shards
fetch.py     a URL → its bytes, from a server that fails now and then
cache.py     compressed and remote shards → plain tars on this machine
tar.py       one plain tar → a record per picture: where its bytes are, and its labels
index.py     all shards of a split → ShardIndex
plan.py      seed and step → the numbers of the pictures in a batch (numpy only)
bad.py       pictures that cannot be decoded: how many are allowed, and what training was given
decode.py    bytes → RGB picture → tensor
dataset.py   number → picture and labels; loader.py: batches of them
datamodule.py  the two above for Lightning, with exact resume
digits.py    the embedded data set; make.py: pictures → shards; cli.py: the verb ``shards``
"""
