"""The commands of `rlhf`, one module per topic; `flows.cli` puts them together."""
