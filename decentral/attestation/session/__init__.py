"""Evidence for one session, from both ends, and what is said after it."""
