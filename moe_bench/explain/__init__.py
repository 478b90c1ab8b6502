"""What routers do with real pictures.

Of all routers on the same tokens: ``scene`` (what they are shown), ``routed`` (what they do), ``draw``, ``routers``.
Of one trained run: ``seen`` (what its layers do), ``specific`` (of which classes), ``draw_maps``, ``mosaic``, ``maps``.
"""
