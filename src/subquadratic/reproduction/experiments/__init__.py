"""What the claims are measured with: one file per subject. They need torch; the claims themselves do not."""
