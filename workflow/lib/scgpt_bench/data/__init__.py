"""Where cells come from, how they are brought to one form, and how they are dealt out."""
