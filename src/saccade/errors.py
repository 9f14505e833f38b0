"""What can go wrong, in three words: the user's call, the user's files, or a training that failed.

Every message names the argument and its value, the rule it breaks, and the call that fixes it.
"""


class SaccadeError(Exception):
    """Base of every error that Saccade raises on purpose."""


class UsageError(SaccadeError, ValueError):
    """A call that cannot work: a wrong argument, option, site or plan."""


class DataError(SaccadeError, ValueError):
    """Images, folders or files that cannot be used as given."""


class TrialError(SaccadeError):
    """A training, alone or of a comparison, that ended without a result."""
