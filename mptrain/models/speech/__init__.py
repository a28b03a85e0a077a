"""Models for keywords and transcription from speech."""
