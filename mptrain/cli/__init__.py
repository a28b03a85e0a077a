"""The command line, one file per group of commands. Importing it imports neither torch nor pydantic."""
