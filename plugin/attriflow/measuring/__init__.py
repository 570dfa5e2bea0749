"""What an explanation costs: passes, seconds, memory, floors, the largest batch."""
