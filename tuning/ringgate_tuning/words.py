"""Numbers as people read them."""


def count(number):
    """100000 as 100,000."""
    return f"{number:,}"


def size(number):
    """Bytes as 1.5 GiB."""
    for unit, bound in (("bytes", 1 << 10), ("KiB", 1 << 20), ("MiB", 1 << 30)):
        if number < bound:
            return f"{_short(number / (bound >> 10))} {unit}"
    return f"{_short(number / (1 << 30))} GiB"


def _short(number):
    return f"{number:.1f}".removesuffix(".0") if number < 100 else f"{number:.0f}"
