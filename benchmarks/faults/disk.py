"""A disk that is full: a run directory on a small one in memory, mounted where only the case's processes see it."""

from __future__ import annotations

import shlex

from benchmarks.faults.case import Case, Ended, require, require_clean, require_same

ALONE = ("unshare", "--map-root-user", "--mount")  # mounts end with the processes

_SCRIPT = """\
mount -t tmpfs -o size={size}k,nr_inodes={inodes} tmpfs {disk} || exit 99
{train} >{said}.1.out 2>{said}.1.err; echo $? >{said}.1.code
mount -o remount,size=1g,nr_inodes=100000 {disk}
{train} >{said}.2.out 2>{said}.2.err; echo $? >{said}.2.code
cp -r {disk}/run {copy}
"""


def full_disk(case: Case) -> None:
    """Trains on a disk without room, or without room for more files; then room is made, and it goes on."""
    disk, said = case.folder / "disk", case.folder / "full"
    disk.mkdir()
    needed = sum(path.stat().st_size // 4096 * 4 + 4 for path in case.bench.reference.rglob("*"))
    files = len(list(case.bench.reference.rglob("*"))) + 3
    part = case.draw.uniform(0.05, 1)
    few_files = case.draw.random() < 0.3
    script = _SCRIPT.format(
        size=1024 * 1024 if few_files else max(8, round(part * needed)),
        inodes=max(5, round(part * files)) if few_files else 100_000,
        disk=shlex.quote(str(disk)),
        train=shlex.join([*case.bench.train, "--workdir", str(disk / "run")]),
        said=shlex.quote(str(said)),
        copy=shlex.quote(str(case.run)),
    )
    with case.start([*ALONE, "sh", "-c", script]) as started:
        require_clean(started.end(), 0)
    first, second = (turn(case, number) for number in (1, 2))
    case.did(f"codes {first.code}, then {second.code}")
    require_clean(first, 0, 1, 2)
    told = first.code == 0 or "space" in first.err or "room" in first.err
    require(told, f"nothing is said of the disk: {first.err.strip()[-300:]!r}")
    require_clean(second, 0)
    require_same(case.run, case.bench.reference)


def turn(case: Case, number: int) -> Ended:
    """Returns how one of the two commands ended."""
    out, err, code = ((case.folder / f"full.{number}.{name}").read_text() for name in ("out", "err", "code"))
    return Ended(int(code), out, err)
