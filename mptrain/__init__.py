"""mptrain: train in the lowest precision that still learns, and prove it."""

__version__ = "0.1.0"
