"""Datasets for keywords and transcription from speech."""
