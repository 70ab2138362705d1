"""Models that peers serve, and those who ask them: stages with evidence, experts that draw as one."""
