"""Evidence and its verification: what a client knows beforehand, and what it makes of what it is shown."""
