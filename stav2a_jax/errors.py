"""The errors of ours that a user sees; imports nothing, so that the command line starts fast."""


class UserError(Exception):
    """Bad input: one sentence that says what is wrong and what to do. The command line prints it and exits with 2."""


class Preempted(Exception):
    """Told to stop from outside and stopped in good order: the same command goes on. Exit code 75 (EX_TEMPFAIL)."""
