"""The live page of a run or of a cluster that serves: what its nodes write down, folded, and sent on as it changes."""
