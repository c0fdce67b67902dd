"""The command `subq`, one file per verb. What a verb needs is imported when it runs, so that help is there at once."""
