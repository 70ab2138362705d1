"""What a peer does each round: one file for each algorithm, on one base that defines what a peer offers them."""
