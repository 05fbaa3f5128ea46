#!/bin/sh
# Brings newer HAProxies beside the one of this machine: versions.sh [CACHE]
#
# Each is unpacked from Debian's packages, with the libraries that it needs, into CACHE/VERSION; nothing is installed. The
# packages come from where this machine installs its own, of another suite. Programs: CACHE/VERSION/bin/haproxy.
set -eu

cache=${1:-/var/cache/swm-haproxy}
# version:suite. The versions that were measured: 3.0.11, 3.2.26, 3.4.7.
versions='3.0:trixie 3.2:sid 3.4:experimental'

machine=$(uname -m)
case $machine in
x86_64) loader=lib64/ld-linux-x86-64.so.2 ;;
aarch64) loader=lib/ld-linux-aarch64.so.1 ;;
*) echo "versions: no loader is known for $machine" >&2 && exit 1 ;;
esac

# The first paragraph of the machine's own Debian sources, with another suite.
print_source() {
    for file in /etc/apt/sources.list.d/*.sources; do
        if grep -q 'debian-archive-keyring' "$file"; then
            sed -n '/^Types:/,/^$/p' "$file" | sed '/^$/,$d' | sed "s/^Suites:.*/Suites: $1/"
            return
        fi
    done
    echo "versions: this machine has no Debian sources in /etc/apt/sources.list.d" >&2
    exit 1
}

bring() {
    version=$1 suite=$2 target=$cache/$1
    [ ! -x "$target/bin/haproxy" ] || return 0
    echo "versions: bringing HAProxy $version from $suite"
    new=$cache/.new
    rm -rf "$new"
    mkdir -p "$new/apt/lists/partial" "$new/apt/archives/partial" "$new/apt/sources" "$new/tree" "$new/bin"
    : > "$new/apt/status"
    print_source "$suite" > "$new/apt/sources/debian.sources"
    release=
    # It has only what differs from sid.
    if [ "$suite" = experimental ]; then
        print_source sid > "$new/apt/sources/sid.sources"
        release=--target-release=experimental
    fi
    set -- -q -o "Dir::State=$new/apt" -o "Dir::State::status=$new/apt/status" -o "Dir::Cache=$new/apt" \
        -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$new/apt/sources" -o Dir::Etc::preferencesparts=/dev/null \
        -o APT::Install-Recommends=0 -o APT::Sandbox::User=root
    apt-get "$@" update > "$new/log" 2>&1 || { cat "$new/log" >&2 && exit 1; }
    # shellcheck disable=SC2086 # nothing or one option
    apt-get "$@" $release -y --download-only install haproxy >> "$new/log" 2>&1 || { cat "$new/log" >&2 && exit 1; }
    for package in "$new"/apt/archives/*.deb; do
        dpkg-deb -x "$package" "$new/tree"
    done
    rm -rf "$new/apt"
    tree=$target/tree
    cat > "$new/bin/haproxy" <<PROGRAM
#!/bin/sh
exec $tree/usr/$loader --argv0 "\$0" --library-path $tree/usr/lib/$machine-linux-gnu $tree/usr/sbin/haproxy "\$@"
PROGRAM
    chmod 755 "$new/bin/haproxy"
    rm -rf "$target"
    mv "$new" "$target"
    "$target/bin/haproxy" -v | head -n 1
}

mkdir -p "$cache"
(
    flock 9
    for pair in $versions; do
        bring "${pair%%:*}" "${pair##*:}"
    done
) 9> "$cache.lock"
