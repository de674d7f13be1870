"""Damaged bytes and texts: the same for the same number of a case."""

import copy
import random
import struct

NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40]
NUMBERS += [(1 << 62) - 1, (1 << 63) - 1, (1 << 64) - 1]


def damaged(content, case, spare=0):
    """Return bytes with some changes, the same for the same case; the first ``spare`` stay."""
    chance = random.Random(case)
    found = bytearray(content)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 8])):
        place = chance.randrange(spare, max(len(found), spare + 1))
        match chance.randrange(7):
            case 0 | 1:
                found[place : place + 1] = bytes([chance.randrange(256)])
            case 2:
                number = struct.pack("<Q", chance.choice(NUMBERS))[: chance.choice([1, 2, 4, 8])]
                found[place : place + len(number)] = number
            case 3:
                del found[place : place + chance.choice([1, 1, 2, 4, 50])]
            case 4:
                found[place:place] = chance.randbytes(chance.choice([1, 1, 2, 4, 50]))
            case 5:
                other = chance.randrange(spare, max(len(found), spare + 1))
                found[place:place] = found[other : other + chance.choice([1, 2, 8, 100])]
            case 6 if chance.random() < 0.2:
                del found[place:]
            case 6:
                bit = 1 << chance.randrange(8)
                found[place : place + 1] = bytes(byte ^ bit for byte in found[place : place + 1])
    return bytes(found)


ODD_TEXTS = [
    *("", " ", "..", "../../evil", "/tmp/evil", "C:\\evil", "a\\b", "a\0b", "\x1b[2J"),
    *("\u202egnp.exe", "x" * 300, "9" * 5000, "-1", "1e999", "NaN", "é" * 90, "\ufeff"),
    *("a\tb,c;d", '"', "'", "*", "[a"),
    *("<script>", "%s{0}$x", "~root", "|id", "$(id)", "CON", "aux.png", ".", "...", "\ud800"),
]


def damaged_text(text, case):
    """Return UTF-8 bytes of a text some of whose lines were changed, or just any bytes."""
    chance = random.Random(case)
    if chance.random() < 0.3:
        return damaged(text.encode(), case)
    lines = text.splitlines()
    for _ in range(chance.choice([1, 1, 2, 5])):
        place = chance.randrange(len(lines) + 1)
        odd = chance.choice(ODD_TEXTS)
        match chance.randrange(6):
            case 0:
                lines.insert(place, odd)
            case 1:
                lines[place : place + 1] = [odd]
            case 2:
                start = chance.randrange(9)
                lines[place : place + 1] = [line[:start] + odd for line in lines[place : place + 1]]
            case 3:
                lines[place:place] = lines[:place]
            case 4:
                lines[place : place + 1] = [odd.join(lines[place : place + 1][:1] * 2)]
            case 5:
                del lines[place:]
    end = chance.choice(["\n", "\n", "\r\n", "\r", "\v", "\0"])
    return "".join(line + end for line in lines).encode("utf-8", "surrogatepass")


ODD_VALUES = [
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**30, 0.5, float("nan"), float("inf"), -1e308),
    *("", "x", "../..", "<b>", "\x1b[2J", "\ud800", [], {}, [[]], [None], {"": {}}, [1] * 1000),
    *({"a": 1}, [[1, 2], [3]], "9" * 5000, [[0] * 300] * 300),
]


def damaged_value(value, case):
    """Return a value for JSON, some parts of which are of another kind."""
    chance = random.Random(case)
    value = [copy.deepcopy(value)]  # so that all of it can be replaced, too
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        places = list(_places(value))
        inside, key = chance.choice(places)
        match chance.randrange(6):
            case 0 | 1 | 2:
                inside[key] = copy.deepcopy(chance.choice(ODD_VALUES))
            case 3 if isinstance(inside, dict):
                del inside[key]
            case 3 | 4 if isinstance(inside, dict):
                inside[str(chance.choice(ODD_TEXTS))] = inside[key]
            case 4:
                inside[key] = [inside[key]]
            case _:
                inside[key] = {"a": inside[key]}
    return value[0]


def _places(value):
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])
