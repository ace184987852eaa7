"""Hands listening sockets over to a program as systemd does: as descriptors from 3 on, told by LISTEN_FDS and LISTEN_PID.

    python hand_over.py DESCRIPTOR,... PROGRAM ARGUMENT...

It becomes the program, so that it has the process id that LISTEN_PID names. `LISTEN_PID` in the environment is left as
it is, for a test of a wrong one.
"""

import os
import sys

FIRST = 3


def main(given: list[int], command: list[str]) -> None:
    """Put the descriptors where they belong and become the program."""
    # Copies in a safe place first: one may lie where another has to go.
    copies = [os.dup2(descriptor, 200 + index) for index, descriptor in enumerate(given)]
    os.closerange(FIRST, 200)
    for index, copy in enumerate(copies):
        os.dup2(copy, FIRST + index)
        os.close(copy)
    os.environ.setdefault("LISTEN_PID", str(os.getpid()))
    os.environ["LISTEN_FDS"] = str(len(given))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main([int(number) for number in sys.argv[1].split(",")], sys.argv[2:])
