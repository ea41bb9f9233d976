"""One loop per stage; a loop reports and does not know who listens."""
