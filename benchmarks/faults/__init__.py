"""What mptrain and its peers do on five faults; see `__main__.py`."""
