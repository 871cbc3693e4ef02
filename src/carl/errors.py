"""What goes wrong for a user, said in one sentence that names the file, row or option and the remedy."""


class CarlError(Exception):
    """Something failed that the user can mend. The command line prints the sentence and exits with 1."""


class UsageError(CarlError):
    """The request itself is off (an option, a name, a setting). The command line exits with 2."""


class Interrupted(CarlError):  # noqa: N818
    """The work was stopped by Ctrl-C and can be continued. The command line exits with 130."""
