"""One module per stage: input folders and settings in, the payload of one artifact out."""
