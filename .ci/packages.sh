# shellcheck shell=bash
# What quickstart and check share: which Debian packages are needed, which are missing, installing them. Sourced, not
# run; the caller is in the root of the repository.

# Building and running. oneDNN's CMake files ask for OpenCL, although a CPU needs none.
# shellcheck disable=SC2034 # used by those who source this
build_packages=(gcc libc6-dev cmake ninja-build pkg-config libopenmpi-dev openmpi-bin libhdf5-dev libdnnl-dev
    ocl-icd-opencl-dev libyaml-dev libjansson-dev libxxhash-dev libssl-dev zlib1g-dev libpcre2-dev libturbojpeg0-dev libpng-dev
    libcmocka-dev libcurl4-openssl-dev)
# Testing.
# shellcheck disable=SC2034
test_packages=(g++ clang clang-format shellcheck python3 python3-numpy python3-h5py
    hdf5-tools dataset-fashion-mnist iproute2 openssh-client python3-yaml libsimgrid-dev)
# What only the tests that take long need: containers, and what knows the objects of Kubernetes.
# shellcheck disable=SC2034
long_packages=(buildah podman runc debootstrap python3-kubernetes)
# Packages that start servers are only for where nothing starts them: containers, which have no systemd.
[ -d /run/systemd/system ] || test_packages+=(openssh-server munge slurmctld slurmd slurm-client)

say()
{
    printf '%s\n' "$*"
}

# fail CODE SENTENCE: one line on standard error, and the exit code.
fail()
{
    printf '%s: %s\n' "$(basename "$0")" "$2" >&2
    exit "$1"
}

is_debian()
{
    command -v dpkg-query >/dev/null && command -v apt-get >/dev/null && [ -r /etc/debian_version ]
}

# missing_packages PACKAGE...: prints those that are not installed.
missing_packages()
{
    local package
    for package in "$@"; do
        if [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
            printf '%s\n' "$package"
        fi
    done
}

# On another system: prints the programs and libraries that a build would miss.
missing_tools()
{
    local tool module
    for tool in cmake ninja pkg-config mpicc mpirun "${CC:-cc}"; do
        command -v "$tool" >/dev/null || printf '%s\n' "$tool"
    done
    for module in hdf5-serial yaml-0.1 jansson libxxhash libcrypto zlib libpcre2-8 libturbojpeg libpng cmocka; do
        pkg-config --exists "$module" 2>/dev/null || printf '%s (library)\n' "$module"
    done
    [ -e /usr/include/dnnl.h ] || [ -e /usr/local/include/dnnl.h ] || printf 'oneDNN (library)\n'
}

# apt LOG ARGUMENT...: apt-get without questions, as root.
apt()
{
    local log=$1 command=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends)
    shift
    if [ "$(id -u)" -ne 0 ]; then
        command=(sudo "${command[@]}")
    fi
    "${command[@]}" "$@" >>"$log" 2>&1
}

# install_packages LOG PACKAGE...: installs what is missing; ends the script with 69 where that is not possible.
install_packages()
{
    local log=$1 missing
    shift
    if ! is_debian; then
        missing=$(missing_tools | paste -sd ' ')
        [ -z "$missing" ] || fail 69 "only Debian and Ubuntu are set up automatically; please install: $missing"
        return 0
    fi
    mapfile -t missing < <(missing_packages "$@")
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
        fail 69 "not root and no sudo; have an administrator run: apt-get install ${missing[*]}"
    fi
    say "installing ${#missing[@]} packages: ${missing[*]}"
    if [ "$(id -u)" -ne 0 ]; then
        sudo -v || fail 69 "sudo is not permitted; have an administrator run: apt-get install ${missing[*]}"
    fi
    # Where package lists are missing or old the first attempt fails at once.
    apt "$log" install "${missing[@]}" && return 0
    if ! apt "$log" update || ! apt "$log" install "${missing[@]}"; then
        tail -n 5 "$log" >&2
        fail 69 "cannot install ${missing[*]}: see $log"
    fi
}

# Lets root start ranks: what a container usually is.
allow_mpi_as_root()
{
    if [ "$(id -u)" -eq 0 ]; then
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
}
