"""The one exception that users are meant to read.

Raised wherever an input, a file or the state of an engine makes it wrong to go on. Its message is one line that names
the file or flag, the value found and the remedy; command-line mains print it as ``error: <message>`` and exit with 2,
and the launcher looks for it in a failed run's log so that the cause, not a traceback, is the last thing on the screen.
"""


class RftError(Exception):
    """One clear line: what is wrong, where, and what to do about it."""
