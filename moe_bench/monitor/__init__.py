"""What a run says while it runs: its folder, its progress, its figures. This file imports nothing, so that ``ls`` is instant."""
