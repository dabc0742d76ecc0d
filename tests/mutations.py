"""Damage to the bytes of a file, as disks, transfers and strangers do it; the same seed gives the same damage."""

import random

_INTERESTING = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 40,
    (1 << 64) - 1,
)


def flip_bits(data, choose):
    for _ in range(choose.choice((1, 1, 1, 2, 8))):
        data[_place(data, choose)] ^= 1 << choose.randrange(8)


def set_byte(data, choose):
    data[_place(data, choose)] = choose.randrange(256)


def overwrite(data, choose):
    """As a hole in a file, or an erased block of flash memory."""
    at, length = _place(data, choose), choose.choice((2, 16, 64, 512, 4096))
    length = min(length, len(data) - at)
    data[at : at + length] = bytes([choose.choice((0, 255))]) * length


def truncate(data, choose):
    del data[choose.choice((_place(data, choose), choose.randrange(len(data)))) :]


def swap_blocks(data, choose):
    size = min(choose.choice((1, 8, 64, 512, 4096)), max(1, len(data) // 2))
    one, other = (choose.randrange(0, max(1, len(data) - size), size) for _ in range(2))
    data[one : one + size], data[other : other + size] = data[other : other + size], data[one : one + size]


def change_number(data, choose):
    """Change a number of 1 to 8 bytes, which may be a length, by a little or to something extreme."""
    width, order = choose.choice((1, 2, 4, 4, 8)), choose.choice(("little", "big"))
    at = max(0, min(_place(data, choose), len(data) - width))
    found = int.from_bytes(data[at : at + width], order)
    value = choose.choice((found + 1, found - 1, found * 2, found << 8, *_INTERESTING))
    data[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, order)


def change_digits(data, choose):
    """Change a number that is written as text, as in JSON and CSV."""
    digits = [at for at, byte in enumerate(data[: 1 << 16]) if 0x30 <= byte <= 0x39]
    if digits:
        at = choose.choice(digits)
        data[at : at + 1] = choose.choice(
            (b"", b"0", b"9", b"-1", b"1e9", b"99999999999", b"null", b"NaN", b'"x"', b"[[]]")
        )


def insert_bytes(data, choose):
    at, length = _place(data, choose), choose.choice((1, 2, 4, 16, 256))
    data[at:at] = choose.choice(
        (bytes(length), b"\xff" * length, choose.randbytes(length), bytes(data[at : at + length]))
    )


def delete_bytes(data, choose):
    at = _place(data, choose)
    del data[at : at + choose.choice((1, 2, 4, 16, 256))]


MUTATIONS = (
    flip_bits, set_byte, overwrite, truncate, swap_blocks, change_number, change_number, change_digits, insert_bytes, delete_bytes
)  # fmt: skip


def mutate(data, seed):
    """Return damaged bytes, which are not the given ones, and the name of the damage.

    Parameters
    ----------
    data : bytes
        Not empty.
    seed : str
    """
    choose = random.Random(seed)
    while True:
        damaged, kind = bytearray(data), choose.choice(MUTATIONS)
        kind(damaged, choose)
        if damaged != data:
            return bytes(damaged), kind.__name__


def _place(data, choose):
    """Return where to harm: anywhere, or within the first or last 512 bytes, where formats keep what they say of themselves."""
    near = min(len(data), 512)
    return choose.choice((choose.randrange(len(data)), choose.randrange(near), len(data) - 1 - choose.randrange(near)))
