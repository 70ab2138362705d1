"""One question to a model in stages: from a person's input to replies, and from replies to an answer."""
