"""Run a command where no namespace can be made, as on many a locked-down machine: a sandbox cannot start there.

    python no_namespaces.py COMMAND [ARGUMENT ...]

A seccomp filter refuses what makes namespaces, for the command and all that it starts.
"""

import ctypes
import os
import platform
import struct
import sys

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER, _FIRST_ARGUMENT = 0, 16
_ALLOW, _EPERM, _ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_NEW_NAMESPACES = 0x7E020000
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _FILTER = 22, 38, 2
# unshare, clone, clone3
_CALLS = {"x86_64": (272, 56, 435), "aarch64": (97, 220, 435)}


def _instruction(code: int, if_true: int, if_false: int, value: int) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def refuse_namespaces() -> None:
    """Install the filter in this process."""
    unshare, clone, clone3 = _CALLS[platform.machine()]
    program = [
        _instruction(_LOAD, 0, 0, _NUMBER),
        _instruction(_EQUAL, 5, 0, unshare),
        _instruction(_EQUAL, 5, 0, clone3),
        _instruction(_EQUAL, 0, 2, clone),
        _instruction(_LOAD, 0, 0, _FIRST_ARGUMENT),
        _instruction(_ANY_BIT, 1, 0, _NEW_NAMESPACES),
        _instruction(_RETURN, 0, 0, _ALLOW),
        _instruction(_RETURN, 0, 0, _EPERM),
        _instruction(_RETURN, 0, 0, _ENOSYS),
    ]
    code = ctypes.create_string_buffer(b"".join(program))
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    library = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _FILTER, ctypes.byref(head), 0, 0),
    ):
        if library.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    refuse_namespaces()
    os.execvp(sys.argv[1], sys.argv[1:])
