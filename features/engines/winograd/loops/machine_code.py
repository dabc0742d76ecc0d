"""The compiled loops as C functions: machine code from the per-user cache, or compiled by Numba now.

Loading machine code needs llvmlite alone and takes milliseconds; compiling imports Numba and takes seconds.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from ....runtime.user_cache import recall_bytes, remember_bytes
from ....runtime.versions import digest_code

# Loop → its module, and its arguments: pointers to float32 (p) and integers (i).
_LOOPS = {
    "multiply": ("matmul", "pipiipipppiip"),
    "multiply_points": ("matmul", "piipiipppiii"),
    "convolve_rows": ("matmul", "piiiiiipippppiii"),
    "im2col": ("matmul", "piiiiiiiiiiipii"),
    "pool": ("pooling", "p" + "i" * 11 + "pi" + "iiii"),
    "add": ("pooling", "ppiippppiii"),
    "input_transform": ("tiles", "piiiiiiipiiii"),
    "output_transform": ("tiles", "piippp" + "i" * 8),
    "kernel_transform": ("tiles", "piipii"),
}
_SMALL, _LARGE = ((4, 3), (4, 3)), ((7, 3), (7, 3))  # tiles
# The loops of networks of 3x3 convolutions, such as VGG, in the order in which they are compiled.
_USUAL: tuple[tuple[Any, ...], ...] = (
    ("kernel_transform", _SMALL), ("convolve_rows",), ("multiply_points",), ("input_transform", _SMALL),
    ("output_transform", _SMALL, True), ("output_transform", _SMALL, False), ("kernel_transform", _LARGE),
    ("input_transform", _LARGE), ("output_transform", _LARGE, False), ("pool",),
)  # fmt: skip
_ENTRY = "loop"
_MOST = 64 << 20  # bytes of machine code that are kept
_linked: list[Any] = []  # LLVM's engines, which own the code
_one_at_a_time = threading.RLock()  # neither Numba's compiler nor LLVM's may run twice at once
_ahead: list[subprocess.Popen[bytes]] = []  # the process that compiles ahead, if there is one


def compile_ahead() -> None:
    """Compile the usual loops that are not in the cache in a process beside this one, which meanwhile does something else."""
    with _one_at_a_time:
        if _ahead or all(recall_bytes("code", _key(*each)) for each in _USUAL):
            return
        told = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import compile_all; compile_all({_USUAL!r})"
        nothing = subprocess.DEVNULL
        _ahead.append(subprocess.Popen([sys.executable, "-c", told], stdin=nothing, stdout=nothing, stderr=nothing))
        atexit.register(_end_ahead)


def _end_ahead() -> None:
    _ahead[0].kill()
    _ahead[0].wait()


def compile_all(loops: Sequence[tuple[Any, ...]]) -> None:
    """Compile loops, as `compiled` takes them, into the cache."""
    for each in loops:
        compiled(*each)


def compiled(name: str, *of: Any) -> Callable[..., Any]:
    """Return a loop as a C function, which takes addresses and integers and runs without the GIL.

    Parameters
    ----------
    name : str
    *of
        What one of a family of loops is made for, such as a tile.
    """
    with _one_at_a_time:
        return _compiled(name, *of)


@cache
def _compiled(name: str, *of: Any) -> Callable[..., Any]:
    kinds, key = _LOOPS[name][1], _key(name, *of)
    held = recall_bytes("code", key)
    while held is None and (name, *of) in _USUAL and _ahead and _ahead[0].poll() is None:
        time.sleep(0.02)
        held = recall_bytes("code", key)
    held = held or recall_bytes("code", key)  # that process may just have ended
    if held is not None:
        return _link(bytes(held), len(kinds))
    code = _compile(name, of)
    remember_bytes("code", key, [code], _MOST)
    return _link(code, len(kinds))


def _key(name: str, *of: Any) -> dict[str, Any]:
    """Return all that decides a loop's machine code."""
    return {"loop": name, "of": of, "arguments": _LOOPS[name][1], **_machine()}


@cache
def _machine() -> dict[str, str]:
    """Return what machine code depends on, beside the loop."""
    return {
        "processor": llvm.get_host_cpu_name(),
        "features": llvm.get_host_cpu_features().flatten(),
        "triple": llvm.get_process_triple(),
        "source": digest_code(Path(__file__).parent),
        **{name: version(name) for name in ("numba", "llvmlite")},
    }


def _compile(name: str, of: tuple[Any, ...]) -> bytes:
    """Return a loop's object file."""
    from numba import types  # it may not be installed, and is not needed where the code is kept

    from .simd import ARGUMENTS

    where, kinds = _LOOPS[name]
    loop = getattr(importlib.import_module(f".{where}", __package__), name)
    if of:
        loop = loop(*of)
    made = loop._compiler.compile(tuple(ARGUMENTS[kind] for kind in kinds), types.void)
    module = llvm.parse_assembly(str(made.library._final_module))
    module.link_in(llvm.parse_assembly(_entry(made.fndesc.llvm_func_name, kinds)))
    foreign = [each.name for each in module.functions if each.is_declaration and not each.name.startswith("llvm.")]
    if foreign:  # what would not be there without Numba
        raise AssertionError(f"the loop {name} refers to {', '.join(foreign)}")
    return bytes(_target().emit_object(module))


def _entry(inner: str, kinds: str) -> str:
    """Return LLVM code that calls a function of Numba's with the addresses for results and errors that it wants."""
    arguments = [f"{'i64' if kind == 'i' else 'ptr'} %{number}" for number, kind in enumerate(kinds)]
    return f"""
        declare i32 @"{inner}"(ptr, ptr, {", ".join(each.split()[0] for each in arguments)})
        define void @{_ENTRY}({", ".join(arguments)}) {{
            %result = alloca ptr
            %error = alloca ptr
            %status = call i32 @"{inner}"(ptr %result, ptr %error, {", ".join(arguments)})
            ret void
        }}"""


def _link(code: bytes, count: int) -> Callable[..., Any]:
    """Return the function in an object file, with so many arguments."""
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _linked.append(engine)
    return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * count)(engine.get_function_address(_ENTRY))


def _target() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=3, reloc="pic", jit=True
    )
