"""AMD SEV-SNP: reports of its firmware, who endorses them, the verifier, and a maker of processors who is simulated."""
