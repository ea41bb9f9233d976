"""What a tuned policy is worth: answers on held-out prompts, measured, drawn and written up."""
