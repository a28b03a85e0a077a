"""Tests of the models for text classification and translation."""
