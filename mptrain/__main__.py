"""`python -m mptrain` is the same as `mptrain`."""

from mptrain.cli.app import main

if __name__ == "__main__":
    main()
