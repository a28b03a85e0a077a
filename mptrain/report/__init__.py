"""Puts finished runs side by side and says which precision to use. Imports no torch."""
