"""Memory of the system."""

from __future__ import annotations


def available(path: str = "/proc/meminfo") -> int:
    """Bytes that programs may take without anything being swapped out; 0 where the system does not say (Linux does).

    The least of that, what the limit on this process's addresses leaves, and the memory of its control group.

    >>> available("there is no such file")
    0
    """
    try:
        with open(path) as lines:
            found = dict(line.split(":", 1) for line in lines)
        least = 1024 * int(found["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError, IndexError):
        return 0
    return min([least, *_addresses(), *_group()])


def _addresses() -> list[int]:
    """What RLIMIT_AS leaves, if there is one."""
    import resource

    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most == resource.RLIM_INFINITY:
        return []
    with open("/proc/self/statm") as line:
        return [max(most - int(line.read().split()[0]) * resource.getpagesize(), 0)]


def _group() -> list[int]:
    """The limit of the control group as a container sees it, if there is one."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path) as line:
                return [int(line.read())]
        except (OSError, ValueError):
            continue
    return []


def copied(codes: int) -> bool:
    """Whether a model whose codes take so many bytes may hold them twice: less than a quarter of the memory that is available.

    >>> copied(1 << 60)
    False
    """
    return 4 * codes < available()
