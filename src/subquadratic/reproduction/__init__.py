"""The papers' claims as experiments: what each says, what is measured, and whether it holds."""
