"""What a comparison says, one file per question, in plain sentences that hold where the intervals allow them."""
