"""What a machine can show of itself: quotes of confidential virtual machines, made, measured, checked and bound."""
