# shellcheck shell=bash
# What the scripts of this folder share: fetching files out of Debian packages without installing them, so that
# no root is needed, and importing. Sourced, not run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
binary=${LOCKSTEP:-$root/build/lockstep}
sources=$root/data/source # as fetched; kept, so that another run downloads nothing

# unavailable WHAT: one line, and the exit code for what this machine lacks.
unavailable()
{
    echo "$(basename "$0"): $1" >&2
    exit 69
}

# as_root COMMAND...: runs it as root, through sudo where that is possible; fails otherwise.
as_root()
{
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
        sudo "$@"
    else
        return 1
    fi
}

# unpack PACKAGE FOLDER: downloads the package and unpacks it there. Where the machine has no package lists (slim
# containers), lists are fetched into a folder of our own, which needs no root.
unpack()
{
    local package=$1 folder=$2 options=()
    command -v apt-get >/dev/null || unavailable "needs the Debian package $package, and this system has no apt-get"
    mkdir -p "$folder/download" "$folder/lists/partial" "$folder/cache/archives/partial"
    if [ "$(id -u)" -eq 0 ]; then
        options+=(-o APT::Sandbox::User=root) # the download folder is not open to apt's own user
    fi
    if ! apt-cache show "$package" >/dev/null 2>&1; then
        options+=(-o "Dir::State::Lists=$folder/lists" -o "Dir::Cache=$folder/cache")
        apt-get "${options[@]}" -qq update >&2 || unavailable "cannot fetch the package lists: is there a network?"
    fi
    (cd "$folder/download" && apt-get "${options[@]}" -qq download "$package" >&2) ||
        unavailable "cannot download the Debian package $package: is there a network?"
    dpkg -x "$folder/download/$package"_*.deb "$folder"
}

# keep FILE NAME LINES: puts a fetched file in its place if it has that many lines, whole or not at all.
keep()
{
    local lines
    lines=$(wc -l <"$1")
    if [ "$lines" -ne "$3" ]; then
        echo "$(basename "$0"): $2 has $lines lines instead of $3; the package has other contents than known" >&2
        exit 65
    fi
    mkdir -p "$sources"
    cp "$1" "$sources/.$2.$$"
    mv "$sources/.$2.$$" "$sources/$2"
}

# import NAME CSV OPTION...: into data/NAME.h5; the importer itself skips what is there.
import()
{
    local name=$1 csv=$2
    shift 2
    [ -x "$binary" ] || unavailable "$binary is not built: build it, or set LOCKSTEP to another"
    "$binary" data import csv "$sources/$csv" -o "$root/data/$name.h5" "$@"
}
