"""What a run says while it runs. This file imports nothing, so that ``ls`` is instant."""
