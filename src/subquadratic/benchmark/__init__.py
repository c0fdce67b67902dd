"""What the package costs in time and memory, compared with others in the same process, and how near it comes to the hardware's limits."""
