"""The words that choose among routers, for code and configuration alike. Pure Python, no torch."""

AFFINITIES = ("softmax", "sigmoid", "relu", "sinkhorn", "sparse")
CHOICES = ("token", "expert")
COMBINES = ("softmax", "plan")
SOLVERS = ("adam", "sweeps", "dual")
PRIORITIES = ("order", "score")
