"""`mptrain bench`: how fast each precision trains a config here, what it holds, and why it is no faster."""
