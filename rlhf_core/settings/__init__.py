"""What a recipe may say: one frozen, closed settings model per stage."""
