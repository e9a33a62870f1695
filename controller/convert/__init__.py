"""From the words of device plugins to claims: pure, objects in, edits out."""
