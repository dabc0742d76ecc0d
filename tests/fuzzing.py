"""Trials of a reader on harmed files: what came of each."""

import shutil

from fuzzed_readers import READERS, digest
from mutations import mutate

from features.errors import CachedFeaturesError

# reported: an error of ours, or a miss of a cache; harmless: the same values; another: other values, of a file without checksums.
GOOD = ("reported", "harmless", "another")
BAD = ("silent", "traceback", "memory", "crash", "hang")
_OF_MEMORY = ("unable to allocate", "memory allocation", "cannot allocate", "memoryerror", "bad_alloc", "out of memory")


class Trial:
    """A reader and its files in a folder of its own.

    Parameters
    ----------
    name : str
        A key of ``READERS``.
    folder : Path
        A new folder.
    """

    def __init__(self, name, folder):
        self.name, self.reader, self.folder = name, READERS[name], folder
        folder.mkdir(parents=True)
        self.reader.make(folder)
        self.whole = {
            path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
        }
        harmed = {path.relative_to(folder) for path in folder.glob(self.reader.files) if path.is_file()}
        self.files = [path for path, data in self.whole.items() if path in harmed and data]
        self.expected = digest(self.reader.read(folder))

    def damage(self, seed):
        """Write the files, one of them with the damage of a seed; return its name and the kind of damage."""
        file = self.files[seed % len(self.files)]
        damaged, kind = mutate(self.whole[file], f"{self.name} {file.name} {seed}")
        shutil.rmtree(self.folder)
        for path, data in self.whole.items():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_bytes(damaged if path == file else data)
        return f"{kind} in {file}"

    def read(self):
        """Read the files as they are now; return the outcome, a member of ``GOOD`` or ``BAD``, and what was said."""
        try:
            found = self.reader.read(self.folder)
        except CachedFeaturesError as error:
            return ("memory" if _is_of_memory(error) else "reported"), str(error)
        except OSError as error:
            return ("reported" if error.filename is not None else "traceback"), repr(error)
        except Exception as error:
            return ("memory" if _is_of_memory(error) else "traceback"), repr(error)
        if found is None:
            return "reported", "a miss"
        if digest(found) == self.expected:
            return "harmless", ""
        return ("silent" if self.reader.checked else "another"), ""


def _is_of_memory(error):
    if "security limit exceeded" in str(error).lower():  # of libheif, which refuses before it allocates
        return False
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in _OF_MEMORY)
