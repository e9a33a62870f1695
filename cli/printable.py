"""Text of others on a terminal: names of files and objects may hold anything."""


def printable(text: str) -> str:
    """Return `text` as one line that steers no terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
