"""moe-bench: which Mixture-of-Experts router to use in a vision transformer, at which capacity, and at what cost.

The package reads downward: ``cli`` → ``train``, ``report`` → ``build`` → ``training``, ``probe``, ``monitor`` →
``model`` → ``routing``; beside them ``data`` and ``config``. Nothing heavy is imported
here, so that ``--help`` is instant.
"""

__version__ = "0.1.0"
