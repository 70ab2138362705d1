"""Which replica serves next, and what a client remembers of replicas for that."""
