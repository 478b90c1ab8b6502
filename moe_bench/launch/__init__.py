"""Sweeps: one process tree for each cell, so that no cell can harm another."""
