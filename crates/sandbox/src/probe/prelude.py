import os, sys


def explain(kind, error, trace):
    """A Python without one of these shows nothing."""
    if not issubclass(kind, ImportError):
        return sys.__excepthook__(kind, error, trace)
    print("untried:", error, flush=True)
    os._exit(0)


sys.excepthook = explain

import ctypes, errno, socket

libc = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == "x86_64"


def call(x86, arm, *args):
    """A system call by its number; answers what it gave, or minus the error."""
    ctypes.set_errno(0)
    long = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    answer = libc.syscall(ctypes.c_long(x86 if X86 else arm), *long)
    return answer if answer >= 0 else -ctypes.get_errno()


def tell(answer, refused):
    name = "ok" if answer >= 0 else errno.errorcode.get(-answer, str(-answer))
    print("held:" if name in refused.split() else "ESCAPED:", name, flush=True)


def keeps(made, x86, arm, *rest):
    if made >= 0:
        call(x86, arm, made, *rest)
    tell(made, "EPERM")


def attempt(work, refused):
    try:
        work()
        tell(0, refused)
    except OSError as error:
        tell(-(error.errno or 0), refused)
