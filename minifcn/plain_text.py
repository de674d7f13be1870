"""Text from files as text: without letters that a terminal obeys instead of showing them."""

from __future__ import annotations

import re

# Control characters (an escape begins a terminal's commands), ends of lines of other alphabets,
# marks that turn the direction of writing, and what is left of names that are no UTF-8.
HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str, keep: str = "") -> str:
    r"""Return a text with codes in place of letters that act on a terminal or page.

    Parameters
    ----------
    text
        Any text, such as a file's name.
    keep
        Letters that stay, such as ends of lines in a text of several lines.

    Examples
    --------
    >>> print(visible("red \x1b[31m, end\n"))
    red \x1b[31m, end\n
    >>> visible("two\nlines", keep="\n") == "two\nlines"
    True
    """
    if not HIDDEN.search(text):
        return text
    return HIDDEN.sub(lambda found: found[0] if found[0] in keep else _code(found[0]), text)


def _code(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def one_line(text: str, longest: int = 300) -> str:
    r"""Return a text of someone else's, such as another library's message, for a line of ours.

    >>> one_line("bad\nnews: " + 500 * "x", longest=20)
    'bad\\nnews: xxxxxxxxxx...'
    """
    return visible(text[:longest]) + "..." * (len(text) > longest)
