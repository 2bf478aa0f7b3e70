# What tools/run, tools/test and tools/load-packages need before they can build: Rust's toolchain, a linker, and the
# programs of a PostgreSQL server. Sourced by them; sets `root`, the folder of the project, and `built`, cargo's.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
built=${CARGO_TARGET_DIR:-$root/target}

# The oldest PostgreSQL that hotrow serves.
oldest_postgresql=13

# The Rust that the gate judges by. Another one warns of other things, and makes other instructions of the same code.
judged_rust=1.95

# Is this that Rust?
is_judged_rust() {
    [[ $(rustc --version) == "rustc $judged_rust."* ]]
}

# Ends the script with one line on stderr.
fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# Is there a PostgreSQL server? Looks where src/store/managed/binaries.rs looks, for what it looks for.
have_postgresql() {
    local dirs=() dir version
    if [[ -n ${PG_BINDIR+set} ]]; then
        dirs=("$PG_BINDIR")
    else
        IFS=: read -ra dirs <<<"$PATH"
        dirs+=(/usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/local/pgsql/bin /usr/libexec/postgresql)
    fi
    for dir in "${dirs[@]}"; do
        [[ -x $dir/postgres && -x $dir/initdb && -x $dir/pg_ctl ]] || continue
        version=$("$dir/postgres" --version 2>/dev/null) || continue
        [[ $version =~ \(PostgreSQL\)\ ([0-9]+) ]] && ((BASH_REMATCH[1] >= oldest_postgresql)) && return 0
    done
    return 1
}

# Runs a command as root, without asking for a password.
as_root() {
    if ((EUID == 0)); then "$@"; else sudo -n "$@"; fi
}

can_install() {
    command -v apt-get >/dev/null && as_root true 2>/dev/null
}

# Installs Debian packages; output goes to stderr, to keep stdout for what the caller prints.
install_packages() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@" >&2
}

# A system that was never told which packages there are has none to install. One that cannot be told now may have been.
update_packages() {
    as_root apt-get update >&2 || echo "apt-get update has failed: trying with the package lists that are here" >&2
}

# have_tool PROGRAM [PACKAGE]: is there this program? Installs the Debian package, of the same name where none is given, if it
# can. For what a caller can do without.
have_tool() {
    local package=${2:-$1}
    command -v "$1" >/dev/null && return
    can_install || return
    echo "installing $package" >&2
    update_packages
    install_packages "$package" && command -v "$1" >/dev/null
}

install_postgresql() {
    local settings=/etc/postgresql-common/createcluster.conf
    echo "installing PostgreSQL" >&2
    update_packages
    # Debian's package makes a cluster of the system's and starts it. hotrow runs one of its own; a second one would
    # only take memory and port 5432. So that is switched off between these two steps.
    install_packages postgresql-common || return 1
    as_root sed -i -E "s/^#?[[:space:]]*create_main_cluster[[:space:]]*=.*/create_main_cluster = false/" "$settings"
    grep -q '^create_main_cluster = false' "$settings" ||
        as_root tee -a "$settings" >/dev/null <<<'create_main_cluster = false'
    echo "create_main_cluster = false is now set in $settings: hotrow needs no cluster of the system's" >&2
    install_packages postgresql
}

require_postgresql() {
    have_postgresql && return
    local remedy="apt-get install postgresql (Debian), or set PG_BINDIR to the folder with its postgres and initdb"
    [[ -n ${PG_BINDIR+set} ]] &&
        fail "PG_BINDIR is $PG_BINDIR, and no PostgreSQL $oldest_postgresql or newer is in it: correct or unset it"
    can_install || fail "no PostgreSQL server $oldest_postgresql or newer was found, and it cannot be installed" \
        "from here (no root, no sudo without a password, or no apt-get): $remedy"
    install_postgresql || fail "PostgreSQL could not be installed (see above): $remedy"
    have_postgresql || fail "PostgreSQL was installed, and no server $oldest_postgresql or newer is to be found: $remedy"
}

require_rust() {
    local wanted have
    command -v cargo >/dev/null || fail "cargo was not found: install Rust's toolchain from https://rustup.rs"
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    have=$(rustc --version | cut -d' ' -f2)
    [[ $(printf '%s\n' "$wanted" "$have" | sort -V | head -n1) == "$wanted" ]] ||
        fail "Rust $wanted or newer is needed, and this is $have: rustup update; or, where it is the system's and not rustup's," \
            "install rustup from https://rustup.rs"
    command -v cc >/dev/null && return
    # Rust links with the system's linker.
    can_install && { echo "installing a linker" >&2; update_packages; install_packages gcc libc6-dev || true; }
    command -v cc >/dev/null || fail "Rust needs a linker: apt-get install gcc libc6-dev (Debian)"
}
