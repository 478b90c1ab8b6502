"""What can go wrong for a user, and the exit code that a script sees.

Every error here is a mistake or a fault that its message explains in full: what happened, where, the numbers, what to
type instead. The command line prints the message and never a traceback. Anything else is a bug and exits with 1.
"""

from __future__ import annotations

import errno

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system's errors have as ``errno`` where there was no room to write."""


class MoeBenchError(Exception):
    """A failure whose message is all a user needs. ``exit_code`` is what the process returns.

    ``everywhere`` is set on an error that every rank of a run raises alike, so that one of them tells it.
    """

    exit_code = 1
    everywhere = False


class ConfigError(MoeBenchError):
    """The command line or the configuration asks for something that cannot be."""

    exit_code = 2


class OwnCodeError(ConfigError):
    """A router or an affinity of the user's own raised an error, which is the cause of this one."""


class DataError(MoeBenchError):
    """A shard, picture or label is missing, damaged or out of range."""

    exit_code = 3


class CheckpointError(MoeBenchError):
    """A checkpoint, the run folder or another place for results cannot be read or written."""

    exit_code = 4


class DivergedError(MoeBenchError):
    """The loss or a gradient stopped being finite."""

    exit_code = 5
    everywhere = True  # decided from figures that all ranks share


class RunInUseError(MoeBenchError):
    """Another process is writing this run folder."""

    exit_code = 6


class WorkerLostError(MoeBenchError):
    """A peer process or a data worker died."""

    exit_code = 7


class SweepError(MoeBenchError):
    """A sweep ended with failed cells."""

    exit_code = 8


class SecurityError(MoeBenchError):
    """Something untrusted tried to run code or to leave its folder."""

    exit_code = 9


EXIT_SIGINT = 130
EXIT_SIGTERM = 143


class Terminated(KeyboardInterrupt):
    """SIGTERM where nothing has to be saved first: what Ctrl-C is there, with exit code EXIT_SIGTERM."""


class Interrupted(MoeBenchError):
    """A signal asked the run to stop, and it did. ``exit_code`` is EXIT_SIGINT or EXIT_SIGTERM."""

    everywhere = True

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class RankError(MoeBenchError):
    """What ended another rank of this run, in that rank's words and with its exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
