"""Signals that a shell had ignored are heeded again.

Under nohup, or in the background of a shell, SIGHUP and SIGINT are ignored, and a run that is tested would, as it
should, ignore them too.
"""

import signal


def heed_signals() -> None:
    """Give SIGINT and SIGHUP the handlers that a process has in the foreground."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
