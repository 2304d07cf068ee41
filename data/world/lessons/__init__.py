"""The training pictures of the embedded world's judges: objects and styles of all kinds, and damaged pictures."""
