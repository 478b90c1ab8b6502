"""The verb ``doctor``: what a run needs, looked at where it would run. Each part returns findings and never raises."""
