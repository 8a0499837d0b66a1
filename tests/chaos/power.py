"""The machine has died: takes back what was not synced, from the journal that shim.c keeps.

Names first, newest first, down to a point that is drawn between the last one that was synced and the end: a journaling
file system keeps them in order. Then bytes: each write after its file's last fsync stays, is lost, is zeros, or is torn,
and what a file has grown by since then may be cut or zeros.
"""

import collections
import os
import pathlib
import shutil
import struct

OPEN, WRITE, SIZE, SYNC, CREATE, MKDIR, UNLINK, RMDIR, RENAME, EXCHANGE = range(1, 11)
HEADER = struct.Struct("<qiiii4q")
NAMES = {CREATE, MKDIR, UNLINK, RMDIR, RENAME, EXCHANGE}
Record = collections.namedtuple("Record", "sequence kind inode offset size path other before")


def read(journal):
    """All records in their order; what a dying process wrote half of is left out."""
    records = []
    for file in journal.glob("*.journal"):
        data, place = file.read_bytes(), 0
        while place + HEADER.size <= len(data):
            sequence, kind, path, other, _, inode, offset, size, count = HEADER.unpack_from(data, place)
            place += HEADER.size
            parts = []
            for length in (path, other, count):
                parts.append(data[place:place + length])
                place += length
            if place > len(data):
                break
            records.append(Record(sequence, kind, inode, offset, size, os.fsdecode(parts[0]), os.fsdecode(parts[1]), parts[2]))
    return sorted(records)


def exchange(first, second):
    spare = first + ".exchanged"
    os.rename(first, spare)
    os.rename(second, first)
    os.rename(spare, second)


def undo(record, kept):
    """Takes one change of names back; one that never happened leaves nothing to take back."""
    path, other = record.path, record.other
    if record.kind == CREATE and os.path.lexists(path):
        os.unlink(path)
    elif record.kind == MKDIR and os.path.isdir(path):
        os.rmdir(path)
    elif record.kind == UNLINK and kept.exists() and not os.path.lexists(path):
        os.link(kept, path)
    elif record.kind == RMDIR and not os.path.lexists(path):
        os.mkdir(path)
    elif record.kind == RENAME and os.path.lexists(other) and not os.path.lexists(path):
        os.rename(other, path)
        if kept.exists():
            os.link(kept, other)
    elif record.kind == EXCHANGE and os.path.lexists(other) and os.path.lexists(path):
        exchange(path, other)


def made_once(names):
    """Without the second making of what is there: ranks race for a directory, and who comes second has made nothing."""
    there, kept = set(), []
    for record in names:
        if record.kind in (CREATE, MKDIR):
            if record.path in there:
                continue
            there.add(record.path)
        elif record.kind in (UNLINK, RMDIR, RENAME):
            there = {path for path in there if path != record.path and not path.startswith(record.path + "/")}
        kept.append(record)
    return kept


def lose_names(records, journal, rng):
    """Returns how many changes of names were lost."""
    synced = collections.defaultdict(int)
    for record in records:
        if record.kind == SYNC:
            synced[record.inode] = record.sequence
    names = made_once([record for record in records if record.kind in NAMES])
    durable = 0
    for i, record in enumerate(names):
        if synced[record.inode] > record.sequence:
            durable = i + 1
    keep = rng.randint(durable, len(names))
    # What a process was about to do when it was stopped has not happened; asking for it again would be wrong.
    for record in reversed(names[keep:]):
        undo(record, journal / f"{record.sequence}.kept")
    return len(names) - keep


def put(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def lose_write(path, record, rng):
    """One write that was not synced. What lay behind the end of the file was nothing, so that is zeros."""
    before = record.before + bytes(record.size - len(record.before))
    fate = rng.choice(("kept", "lost", "torn"))
    end = min(record.offset + record.size, os.path.getsize(path))
    sectors = range(record.offset // 512 * 512, end, 512)
    lost = 0
    for sector in sectors:
        start, stop = max(sector, record.offset), min(sector + 512, end)
        if fate == "lost" or (fate == "torn" and rng.random() < 0.5):
            put(path, start, before[start - record.offset:stop - record.offset])
            lost += 1
    return lost


def lose_bytes(records, root, rng):
    """Returns how many sectors were lost."""
    paths = {}
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            paths[path.stat().st_ino] = path
    base, after = {}, collections.defaultdict(list)
    for record in records:
        if record.kind in (OPEN, SYNC):
            if record.kind == SYNC or record.inode not in base:
                base[record.inode] = record.size
            if record.kind == SYNC:
                after[record.inode].clear()
        elif record.kind in (WRITE, SIZE):
            after[record.inode].append(record)
            if record.kind == SIZE:
                base[record.inode] = min(base.get(record.inode, record.offset), record.offset)
    lost = 0
    for inode, path in paths.items():
        for record in reversed(after[inode]):
            if record.kind == WRITE:
                lost += lose_write(path, record, rng)
        size = path.stat().st_size
        if inode in base and size > base[inode]:
            cut = rng.randint(base[inode], size)
            lost += (size - cut + 511) // 512
            os.truncate(path, cut)
            if rng.random() < 0.3:
                os.truncate(path, size)
    return lost


def fail(session, rng):
    """Everything of the session is dead. Says what was lost."""
    records = read(session.journal)
    names = lose_names(records, session.journal, rng)
    sectors = lose_bytes(records, session.root, rng)
    forget(session.journal)
    return f"{names} names and {sectors} sectors lost"


def forget(journal):
    """What is there now is on the disk."""
    for pattern in ("*.journal", "*.kept"):
        for file in pathlib.Path(journal).glob(pattern):
            file.unlink()
