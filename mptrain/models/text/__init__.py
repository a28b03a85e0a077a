"""Models for text classification and translation."""
