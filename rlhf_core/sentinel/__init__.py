"""What watches training: alarms on its numbers, the causes they point to, and the diagnosis."""
