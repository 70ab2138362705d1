"""Zero-knowledge proofs of a model's outputs: circuits, proofs, and what a verifier pins of them."""
