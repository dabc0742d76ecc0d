"""A disk that loses power: what a recorded command leaves at each moment if only what was synced is kept.

The record is strace's, so that writes of native libraries are in it, such as HDF5's.
"""

import ast
import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

_CALLS = (
    "openat,open,creat,close,dup,dup2,dup3,lseek,write,pwrite64,writev,pwritev,ftruncate,truncate,fallocate,copy_file_range,sendfile,"
    "rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,fsync,fdatasync,sync"
)
_LINE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+)")
_UNFINISHED = re.compile(r"^(\d+) +(.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$")
_ARGUMENT = re.compile(r'(?:(AT_FDCWD|\d+)<([^>]*)>)|("(?:[^"\\]|\\.)*")|([^,\s]+)')


def record(command, log):
    """Run a command under strace; return its exit status."""
    strace = ["strace", "-f", "-y", "-x", "-s", "100000000", "--seccomp-bpf", "-e", f"trace={_CALLS}", "-o", str(log)]
    return subprocess.run([*strace, *command]).returncode


@dataclass(eq=False)
class File:
    """A file: what was written, and what of it is on disk; `torn` is that with half of the last write since."""

    data: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    torn: bytes = b""

    def write(self, at, data):
        self.data[len(self.data) :] = bytes(max(0, at - len(self.data)))
        self.data[at : at + len(data)] = data
        half, torn = data[: len(data) // 2], bytearray(self.durable)
        torn[len(torn) :] = bytes(max(0, at - len(torn)))
        torn[at : at + len(half)] = half
        self.torn = bytes(torn)

    def sync(self):
        self.durable = self.torn = bytes(self.data)


@dataclass(eq=False)
class Folder:
    """A folder: its entries, and those on disk."""

    entries: dict = field(default_factory=dict)
    durable: dict = field(default_factory=dict)

    def sync(self):
        self.durable = dict(self.entries)


class Disk:
    """Replays a record of what happened below a folder that was on disk as a whole before.

    Parameters
    ----------
    folder : Path
        As it was before.
    """

    def __init__(self, folder):
        self.root, self._prefix = _load(folder), f"{folder}"
        self._open = {}  # descriptor → [file, position, whether it appends]

    def replay(self, log):
        """Yield after each call that changes something what it was."""
        for name, arguments, result in _calls(log):
            if result >= 0 and getattr(self, f"_{name}", None) and self._prefix in str(arguments):
                getattr(self, f"_{name}")(arguments, result)
                yield name

    def state(self, policy):
        """Return path → bytes, or None for a folder, as it is after a loss of power.

        ``lazy``: names and contents are there if their folder and they were synced. ``eager``: all names are there, contents if they
        were synced. ``torn``: all names, and of each file half of the last write since. ``kept``: all that was written.
        """
        found = {}

        def look(folder, below):
            for name, node in (folder.durable if policy == "lazy" else folder.entries).items():
                path = f"{below}{name}"
                if isinstance(node, Folder):
                    found[path] = None
                    look(node, f"{path}/")
                else:
                    found[path] = {"torn": node.torn, "kept": bytes(node.data)}.get(policy, node.durable)

        look(self.root, "")
        return found

    def _find(self, path):
        """Return the folder that holds a path, and its name there; (None, None) outside."""
        if not path.startswith(f"{self._prefix}/"):
            return None, None
        *above, name = path[len(self._prefix) + 1 :].strip("/").split("/")
        folder = self.root
        for each in above:
            folder = folder.entries[each]
        return folder, name

    def _node(self, path):
        if path == self._prefix:
            return self.root
        folder, name = self._find(path)
        return None if folder is None else folder.entries.get(name)

    def _openat(self, arguments, descriptor):
        path, flags = arguments[1], str(arguments[2])
        folder, name = self._find(path)
        if folder is None or "O_DIRECTORY" in flags or isinstance(folder.entries.get(name), Folder):
            return
        if name not in folder.entries:
            if "O_CREAT" not in flags:  # a name that was exchanged, or removed
                return
            folder.entries[name] = File()
        node = folder.entries[name]
        if "O_TRUNC" in flags:
            node.data.clear()
        self._open[descriptor] = [node, 0, "O_APPEND" in flags]

    def _close(self, arguments, _):
        self._open.pop(arguments[0][0], None)

    def _dup(self, arguments, descriptor):
        if arguments[0][0] in self._open:
            self._open[descriptor] = self._open[arguments[0][0]]

    def _lseek(self, arguments, place):
        if arguments[0][0] in self._open:
            self._open[arguments[0][0]][1] = place

    def _write(self, arguments, count):
        held = self._open[arguments[0][0]]
        at = len(held[0].data) if held[2] else held[1]
        held[0].write(at, arguments[1][:count])
        held[1] = at + count

    def _pwrite64(self, arguments, count):
        self._open[arguments[0][0]][0].write(int(arguments[3]), arguments[1][:count])

    def _ftruncate(self, arguments, _):
        data, size = self._open[arguments[0][0]][0].data, int(arguments[1])
        data[len(data) :] = bytes(max(0, size - len(data)))
        del data[size:]

    def _truncate(self, arguments, _):
        data, size = self._node(arguments[0]).data, int(arguments[1])
        del data[size:]

    def _rename(self, arguments, _):
        self._move(arguments[0], arguments[1])

    def _renameat2(self, arguments, _):
        self._move(arguments[1], arguments[3], exchange="RENAME_EXCHANGE" in str(arguments[4:]))

    def _move(self, old, new, exchange=False):
        source, name = self._find(old)
        target, other = self._find(new)
        node = source.entries.pop(name)
        if exchange:
            source.entries[name] = target.entries[other]
        target.entries[other] = node

    def _mkdir(self, arguments, _):
        folder, name = self._find(arguments[0])
        folder.entries[name] = Folder()

    def _unlink(self, arguments, _):
        folder, name = self._find(arguments[0])
        folder.entries.pop(name, None)

    _rmdir = _unlink

    def _unlinkat(self, arguments, _):
        self._unlink(arguments[1:], _)

    def _fsync(self, arguments, _):
        held = self._open.get(arguments[0][0])
        node = held[0] if held else self._node(arguments[0][1])
        if node is not None:
            node.sync()

    _fdatasync = _fsync


def _load(path):
    if path.is_file():
        data = path.read_bytes()
        return File(bytearray(data), data, data)
    entries = {each.name: _load(each) for each in path.iterdir()}
    return Folder(entries, dict(entries))


def materialise(state, folder):
    """Write a state of a disk to a new folder."""
    folder.mkdir(parents=True)
    for path, data in state.items():
        if data is None:
            (folder / path).mkdir(parents=True, exist_ok=True)
        else:
            (folder / path).write_bytes(data)


def tree_of(folder):
    """Return path → bytes, or None for a folder, of what is in a folder."""
    found = {}
    for path in folder.rglob("*"):
        found[path.relative_to(folder).as_posix()] = None if path.is_dir() else path.read_bytes()
    return found


def _calls(log):
    """Yield name, arguments and result of each call; descriptors are (number, path), texts bytes or, where they are paths, absolute."""
    waiting = {}
    with open(log, encoding="latin-1") as lines:
        for line in lines:
            if unfinished := _UNFINISHED.match(line):
                waiting[unfinished[1]] = unfinished[2]
                continue
            if resumed := _RESUMED.match(line):
                line = f"{resumed[1]} {waiting.pop(resumed[1], '')}{resumed[2]}"
            if found := _LINE.match(line):
                yield _named(found[2]), _arguments(found[2], found[3]), int(found[4])


def _named(name):
    return {
        "open": "openat",
        "creat": "openat",
        "mkdirat": "mkdir",
        "renameat": "renameat2",
        "dup2": "dup",
        "dup3": "dup",
    }.get(name, name)


def _arguments(name, text):
    found, base = [], None
    for descriptor, path, quoted, other in _ARGUMENT.findall(text):
        if descriptor:
            base = path
            found.append((int(descriptor) if descriptor.isdigit() else None, path))
        elif quoted:
            data = ast.literal_eval(f"b{quoted}")
            is_path = not name.startswith(("write", "pwrite"))
            found.append(os.path.normpath(Path(base or "/", os.fsdecode(data))) if is_path else data)
        else:
            found.append(other)
    return found[1:] if name == "mkdirat" else found
