"""From the user's files to rows worth training on: readers, rules, and sides of the splits."""
