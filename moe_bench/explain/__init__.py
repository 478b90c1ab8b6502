"""What routers do with real pictures. Read ``scene`` (what they are shown), ``routed`` (what they do), ``draw``."""
