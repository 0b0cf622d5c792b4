# shellcheck shell=bash
# What the scripts have in common. Sourced, not run.

program=$(basename "$0")
# "no": nothing is installed, only what is missing is said.
install=yes

fail() {
    echo "$program: $*" >&2
    exit 1
}

# The version in Cargo.toml.
cargo_version() { sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1; }

# Runs a command as root.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo > /dev/null; then
        sudo "$@"
    else
        fail "this needs root: $*"
    fi
}

# Prints those of the packages that are not installed.
missing_packages() {
    local package
    for package in "$@"; do
        case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null) in
            installed) ;;
            *) echo "$package" ;;
        esac
    done
}

# Installs those of the packages that are missing.
install_packages() {
    command -v dpkg-query > /dev/null ||
        fail "this is not a Debian system: install these yourself and use --no-install: $*"
    local missing
    mapfile -t missing < <(missing_packages "$@")
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$install" = no ]; then
        fail "missing packages: apt-get install --no-install-recommends ${missing[*]}"
    fi
    echo "Installing with apt: ${missing[*]}"
    local apt=(apt-get -qq -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120)
    as_root env DEBIAN_FRONTEND=noninteractive "${apt[@]}" update ||
        fail "apt-get update failed: check the network and /etc/apt"
    forbid_services
    local result=0
    as_root env DEBIAN_FRONTEND=noninteractive "${apt[@]}" install --no-install-recommends "${missing[@]}" ||
        result=$?
    allow_services
    [ $result = 0 ] || fail "apt-get could not install ${missing[*]}: see its message above"
}

# Debian's packages start their services (Kamailio, PostgreSQL, MariaDB) when
# they are installed, unless this file says no. Where it exists it is left alone.
policy=/usr/sbin/policy-rc.d
forbid_services() {
    policy_is_ours=no
    [ ! -e $policy ] || return 0
    policy_is_ours=yes
    printf '#!/bin/sh\nexit 101\n' | as_root tee $policy > /dev/null
    as_root chmod 755 $policy
}
allow_services() {
    [ $policy_is_ours = no ] || as_root rm -f $policy
}

# Checks that there is a Rust toolchain, as new as Cargo.toml wants it.
check_rust() {
    local wanted have
    PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    command -v cargo > /dev/null || fail "no cargo: install Rust $wanted or newer from https://rustup.rs"
    have=$(rustc --version | awk '{print $2}') || fail "rustc does not run: rustup default stable"
    [ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -n 1)" = "$wanted" ] ||
        fail "Rust $have is too old: $wanted or newer is needed (rustup update stable)"
}

# Kamailio, its modules and what the module is built with. Kamailio's makefiles
# ask pkg-config for OpenSSL's version and set a compile flag by the answer.
# shellcheck disable=SC2034 # for whoever sources this
build_packages=(
    kamailio kamailio-presence-modules kamailio-sqlite-modules
    gcc libc6-dev make binutils dpkg-dev xz-utils libclang-dev libxml2-dev pkg-config libssl-dev libsqlite3-dev
)
