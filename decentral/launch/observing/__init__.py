"""What can be seen of a cluster from outside: metrics, events, traces and logs, each only where it is asked for."""
