"""What the package costs in time and memory, beside others in the same process, and how near it comes to what the machine could do."""
